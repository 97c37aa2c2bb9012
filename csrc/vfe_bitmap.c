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

static void release(void *memory, size_t size)
{
	if (size <= SMALL_BYTES)
		free(memory);
	else
		munmap(memory, size);
}

/* Cut one piece of memory into levels, each on its own cache line. */
static bool make_levels(struct vfe_bitmap *bitmap)
{
	size_t nwords = round_line(ceil_div(bitmap->nbits, 64));
	size_t nl1 = round_line(bitmap->nchunks);
	size_t nl2 = round_line(bitmap->nl2);
	size_t nl3 = round_line(bitmap->nl3);

	bitmap->memory_size = (nwords + nl1 + nl2 + nl3 + nl1) * 8;
	bitmap->memory = allocate(bitmap->memory_size);
	if (!bitmap->memory)
		return false;
	bitmap->words = bitmap->memory;
	bitmap->l1 = bitmap->words + nwords;
	bitmap->l2 = bitmap->l1 + nl1;
	bitmap->l3 = bitmap->l2 + nl2;
	bitmap->gate = bitmap->l3 + nl3;
	return true;
}

struct vfe_bitmap *vfe_bitmap_create(uint64_t nbits, enum vfe_isa isa)
{
	assert(nbits > 0 && nbits <= (uint64_t)1 << 56);
	const struct vfe_ops *ops = vfe_ops_choose(isa);
	struct vfe_bitmap *bitmap = ops ? calloc(1, sizeof(*bitmap)) : NULL;

	if (!bitmap)
		return NULL;
	bitmap->nbits = nbits;
	bitmap->ops = ops;
	bitmap->nchunks = ceil_div(nbits, VFE_CHUNK_PAGES);
	bitmap->nl2 = ceil_div(bitmap->nchunks, 64);
	bitmap->nl3 = ceil_div(bitmap->nl2, 64);
	if (!make_levels(bitmap)) {
		free(bitmap);
		return NULL;
	}
	return bitmap;
}

void vfe_bitmap_destroy(struct vfe_bitmap *bitmap)
{
	if (!bitmap)
		return;
	release(bitmap->memory, bitmap->memory_size);
	free(bitmap);
}

/* Its holder needs one chunk's copy at most, unless it lost its CPU. */
static void gate_take(uint64_t *gate)
{
	for (unsigned int spins = 0; !vfe_gate_try(gate); spins++) {
#if defined(__x86_64__)
		__builtin_ia32_pause();
#endif
		if (spins >= SPINS_BEFORE_YIELD)
			sched_yield();
	}
}

void vfe_or_word_gated(struct vfe_bitmap *bitmap, uint64_t word, uint64_t bits)
{
	uint64_t *gate = &bitmap->gate[word / VFE_CHUNK_WORDS];

	gate_take(gate);
	__atomic_fetch_or(&bitmap->words[word], bits, __ATOMIC_SEQ_CST);
	vfe_gate_release(gate);
}

/* Bits [lo, hi) of a chunk; inner words need no read, so no locked OR. */
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
		__atomic_store_n(&words[word], UINT64_MAX, __ATOMIC_RELAXED);
	if (hi % 64 && word == hi / 64)
		__atomic_fetch_or(&words[word], vfe_mask(0, hi % 64),
				  __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void fill_chunk(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t lo,
		       uint64_t hi)
{
	uint64_t *gate = &bitmap->gate[chunk];
	uint64_t *words = &bitmap->words[chunk * VFE_CHUNK_WORDS];
	uint64_t before = __atomic_load_n(gate, __ATOMIC_ACQUIRE);

	fill_words(words, lo, hi);
	if (before & 1 || __atomic_load_n(gate, __ATOMIC_SEQ_CST) != before) {
		gate_take(gate);
		fill_words(words, lo, hi);
		vfe_gate_release(gate);
	}
	uint64_t lines = vfe_mask(lo >> 9, (hi + 511) >> 9);

	if ((__atomic_load_n(&bitmap->l1[chunk], __ATOMIC_SEQ_CST) & lines) !=
	    lines)
		__atomic_fetch_or(&bitmap->l1[chunk], lines, __ATOMIC_SEQ_CST);
	vfe_summary_set(&bitmap->l2[chunk >> 6], (uint64_t)1 << (chunk & 63));
	vfe_summary_set(&bitmap->l3[chunk >> 12],
			(uint64_t)1 << (chunk >> 6 & 63));
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

		if (bits) {
			vfe_or_word(bitmap, first / 64, bits << (first % 64));
			vfe_summarise(bitmap, first >> 9);
		}
		first += n;
		src_bit += n;
	}
}
