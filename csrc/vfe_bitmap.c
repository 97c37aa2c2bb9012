/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vfe_bitmap.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vfe_atomic.h"
#include "vfe_ops.h"

#define SPINS_BEFORE_YIELD 64
#define SMALL_BYTES	   4096

#define HEADER_WORDS (sizeof(struct vfe_bitmap) / 8)

_Static_assert(offsetof(struct vfe_bitmap, nbits) == 64 &&
		       sizeof(struct vfe_bitmap) == 128,
	       "what marks need is one cache line");

static size_t ceil_div(size_t value, size_t unit)
{
	return value / unit + (value % unit != 0);
}

static size_t round_line(size_t nwords)
{
	return ceil_div(nwords, VFE_LINE_WORDS) * VFE_LINE_WORDS;
}

/*
 * Many small bitmaps should not be as many mappings. A huge page for one dirty
 * page would break the promise that clean memory costs nothing.
 */
static void *allocate(size_t size)
{
	if (size <= SMALL_BYTES) {
		void *memory = aligned_alloc(VFE_LINE_WORDS * 8, size);

		return memory ? memset(memory, 0, size) : NULL;
	}
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

/*
 * Header, summaries, gates, words, in words from the header. A chunk's words
 * are a page of memory; a bitmap of one chunk has its summaries in the header,
 * so that a mark touches two lines.
 */
static void lay_out(struct vfe_bitmap *bitmap)
{
	bool tiny = bitmap->nchunks == 1;
	size_t nl1 = tiny ? 1 : round_line(bitmap->nchunks);
	size_t l1 = tiny ? offsetof(struct vfe_bitmap, tiny) / 8 : HEADER_WORDS;
	size_t l2 = l1 + nl1;
	size_t l3 = l2 + (tiny ? 1 : round_line(bitmap->nl2));
	size_t gates = l3 + (tiny ? 1 : round_line(bitmap->nl3));
	size_t words = gates + nl1;

	if (!tiny)
		words = ceil_div(words, VFE_CHUNK_WORDS) * VFE_CHUNK_WORDS;
	assert(words <= UINT32_MAX);
	bitmap->l1_at = (uint32_t)l1;
	bitmap->l2_at = (uint32_t)l2;
	bitmap->l3_at = (uint32_t)l3;
	bitmap->gates_at = (uint32_t)gates;
	bitmap->words_at = (uint32_t)words;
	bitmap->size = (words + round_line(ceil_div(bitmap->nbits, 64))) * 8;
}

struct vfe_bitmap *vfe_bitmap_create(uint64_t nbits, enum vfe_isa isa)
{
	assert(nbits > 0 && nbits <= VFE_MAX_BITS);
	size_t nchunks = ceil_div(nbits, VFE_CHUNK_PAGES);
	struct vfe_bitmap bitmap = {
		.nbits = nbits,
		.nchunks = nchunks,
		.nl2 = ceil_div(nchunks, 64),
		.nl3 = ceil_div(ceil_div(nchunks, 64), 64),
		.ops = vfe_ops_choose(isa),
	};

	lay_out(&bitmap);
	void *memory = bitmap.ops ? allocate(bitmap.size) : NULL;

	if (!memory)
		return NULL;
	struct vfe_bitmap *made = memcpy(memory, &bitmap, sizeof(bitmap));

	vfe_l3(made)[0] = made->nl2 == 1;
	vfe_l2(made)[0] = made->nchunks == 1;
	vfe_l1(made)[0] = nbits <= VFE_LINE_PAGES;
	return made;
}

void vfe_bitmap_destroy(struct vfe_bitmap *bitmap)
{
	if (!bitmap)
		return;
	if (bitmap->size <= SMALL_BYTES)
		free(bitmap);
	else
		munmap(bitmap, bitmap->size);
}

/* It takes a copy of 16 KiB at most, unless the harvester lost its CPU. */
static uint64_t wait_for_gate(const uint64_t *gate)
{
	uint64_t before;

	for (unsigned int spins = 0; (before = vfe_gate_before(gate)) & 1;
	     spins++) {
#if defined(__x86_64__)
		__builtin_ia32_pause();
#endif
		if (spins >= SPINS_BEFORE_YIELD)
			sched_yield();
	}
	return before;
}

void vfe_or_word_again(struct vfe_bitmap *bitmap, uint64_t word, uint64_t bits)
{
	uint64_t chunk = word / VFE_CHUNK_WORDS;
	uint64_t line = word / VFE_LINE_WORDS;
	const uint64_t *gate = &vfe_gates(bitmap)[chunk];
	uint64_t before;

	do {
		before = wait_for_gate(gate);
		__atomic_fetch_or(&vfe_words(bitmap)[word], bits,
				  __ATOMIC_SEQ_CST);
		vfe_summary_set(&vfe_l1(bitmap)[chunk],
				(uint64_t)1 << (line & 63));
	} while (!vfe_gate_quiet(gate, before));
}

/*
 * Bits [lo, hi) of a chunk; inner words need no read, so no locked OR. But a
 * bit must not be seen before its page, whatever the caller has fenced.
 */
static void fill_words(uint64_t *words, uint64_t lo, uint64_t hi)
{
	uint64_t word = lo / 64;

	if (lo % 64 || hi - lo < 64) {
		uint64_t end = hi < word * 64 + 64 ? hi - word * 64 : 64;

		__atomic_fetch_or(&words[word], vfe_mask(lo % 64, end),
				  __ATOMIC_SEQ_CST);
		word++;
	}
	for (; word < hi / 64; word++)
		__atomic_store_n(&words[word], UINT64_MAX, __ATOMIC_RELEASE);
	if (hi % 64 && word == hi / 64)
		__atomic_fetch_or(&words[word], vfe_mask(0, hi % 64),
				  __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void fill_chunk(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t lo,
		       uint64_t hi)
{
	const uint64_t *gate = &vfe_gates(bitmap)[chunk];
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	uint64_t *l1 = &vfe_l1(bitmap)[chunk];
	uint64_t lines = vfe_mask(lo >> 9, (hi + 511) >> 9);
	uint64_t before;

	do {
		before = wait_for_gate(gate);
		fill_words(words, lo, hi);
		if ((__atomic_load_n(l1, __ATOMIC_SEQ_CST) & lines) != lines)
			__atomic_fetch_or(l1, lines, __ATOMIC_SEQ_CST);
	} while (!vfe_gate_quiet(gate, before));
	vfe_summarise(bitmap, chunk);
}

void vfe_mark_range(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	uint64_t end = first + npages;

	while (first < end) {
		uint64_t chunk = first >> VFE_CHUNK_SHIFT;
		uint64_t base = chunk << VFE_CHUNK_SHIFT;
		uint64_t stop = base + VFE_CHUNK_PAGES;

		if (stop > end)
			stop = end;
		fill_chunk(bitmap, chunk, first - base, stop - base);
		first = stop;
	}
}

void vfe_mark_pages(struct vfe_bitmap *bitmap, const uint64_t *pages,
		    size_t count)
{
	for (size_t i = 0; i < count; i++) {
		assert(pages[i] < bitmap->nbits);
		vfe_mark(bitmap, pages[i]);
	}
}

/* Bits [bit, bit + n) of src as a word; n <= 64; never reads past them. */
static uint64_t bits_of(const void *src, uint64_t bit, uint64_t n)
{
	const unsigned char *bytes = (const unsigned char *)src + bit / 8;
	size_t nbytes = (size_t)((bit % 8 + n + 7) / 8);
	uint64_t low = 0;
	unsigned char high = 0;

	memcpy(&low, bytes, nbytes < 8 ? nbytes : 8);
	if (nbytes > 8)
		high = bytes[8];
	uint64_t value = low >> (bit % 8);

	if (bit % 8)
		value |= (uint64_t)high << (64 - bit % 8);
	return value & vfe_mask(0, n);
}

void vfe_merge(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
	       const void *src, uint64_t src_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	uint64_t end = first + npages;

	while (first < end) {
		uint64_t n = 64 - first % 64;

		if (n > end - first)
			n = end - first;
		uint64_t bits = bits_of(src, src_bit, n);

		if (bits)
			vfe_or_word(bitmap, first / 64, bits << (first % 64),
				    false);
		first += n;
		src_bit += n;
	}
}

bool vfe_clear_bits(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    const void *src, uint64_t src_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	uint64_t end = first + npages;
	bool any = false;

	while (first < end) {
		uint64_t n = 64 - first % 64;

		if (n > end - first)
			n = end - first;
		uint64_t bits = bits_of(src, src_bit, n);

		if (bits)
			__atomic_fetch_and(&vfe_words(bitmap)[first / 64],
					   ~(bits << (first % 64)),
					   __ATOMIC_SEQ_CST);
		any |= bits != 0;
		first += n;
		src_bit += n;
	}
	return any;
}
