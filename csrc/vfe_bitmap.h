/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The dirty bitmap: one bit per page, and a summary of where bits are.
 *
 * Layout. `words` holds bit p of page p (word p / 64, bit p % 64). Above it
 * are three summaries, each bit of which says "look below":
 *
 *	words	1 bit = 1 page
 *	l1	1 bit = 1 line  = 8 words = 512 pages
 *	l2	1 bit = 1 chunk = 64 lines = 1 word of l1 = 32768 pages
 *	l3	1 bit = 64 chunks = 1 word of l2
 *
 * A set bit implies that its summary bits are set, or that a writer is about
 * to set them; a set summary bit implies nothing. A summary with one unit below
 * it is always set. All of it is one piece of
 * memory, and where that is more than a page it is mapped and never touched
 * before the first mark: what was never marked costs nothing.
 *
 * Who may do what at the same time: any number of writers (mark, mark_range,
 * merge) with any number of harvesters. What is never lost is a mark: the
 * page that was marked is in the harvest that runs, or in the next one. It
 * may be in both.
 *
 * The order that makes it so. A writer changes the page, then its bit (a full
 * barrier), then each summary from l1 upwards. A harvester clears from l3
 * downwards before it looks below, so a bit that it missed has a writer that
 * sees the cleared summary and sets it again.
 *
 * The gate. Taking words one by one with an atomic exchange is some ten times
 * slower than copying. So the harvester, if it is the only one, opens a window
 * on a chunk: it makes the chunk's gate odd (a full fence follows), reads and
 * clears l1 and words with plain, wide moves, and makes the gate even again. A
 * writer never waits for it to begin with: it looks at the gate, ORs its bits
 * into word and l1, and looks at the gate again. If that was odd or has
 * changed, its bits may have been wiped out by a plain store, and it does it
 * all again when the gate is even. A window lasts as long as a copy of 16 KiB.
 * A harvester that finds another at work exchanges words, and does not wait.
 * (tests/native/test_protocol.py visits every interleaving of a small model;
 * test_loss.c is the same at full size and speed.)
 *
 * Residue. The kernel shifts its bitmap in place to meet an unaligned user
 * bitmap, and clears only the first nbits afterwards, so shifted bits past the
 * end stay and come back (type1.c, update_user_bitmap()). Those bits live in
 * `residue`, outside the words that writers and summaries know. Harvests with
 * residue are the caller's to serialise (type1 holds iommu->lock).
 */
#ifndef VFE_BITMAP_H
#define VFE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFE_LINE_WORDS	8
#define VFE_LINE_PAGES	512
#define VFE_CHUNK_LINES 64
#define VFE_CHUNK_WORDS 512
#define VFE_CHUNK_SHIFT 15
#define VFE_CHUNK_PAGES ((uint64_t)1 << VFE_CHUNK_SHIFT)

/** Which instruction set to use. */
enum vfe_isa {
	VFE_ISA_BEST = 0,     /**< the best that this CPU has */
	VFE_ISA_PORTABLE = 1, /**< C11 only */
	VFE_ISA_AVX2 = 2,     /**< AVX2; creation fails without it */
};

/** @return whether this CPU has it. */
bool vfe_isa_available(enum vfe_isa isa);

struct vfe_ops;

struct vfe_bitmap {
	size_t nchunks; /**< words of l1 = bits of l2 */
	size_t nl2;
	size_t nl3;
	size_t size;	     /**< of all memory, this struct included */
	uint64_t residue[2]; /**< bits >= nbits of words nbits/64 and +1 */
	const struct vfe_ops *ops;
	uint64_t harvester; /**< 1: somebody may open windows */

	/*
	 * What a mark needs besides the words, on one cache line: where the
	 * levels are, in words from here; and, if there is but one chunk, its
	 * word of each summary and its gate.
	 */
	uint64_t nbits;
	uint32_t words_at;
	uint32_t l1_at;
	uint32_t l2_at;
	uint32_t l3_at;
	uint32_t gates_at; /**< one per chunk; odd: a window is open */
	uint32_t pad;
	uint64_t tiny[4];
};

#define VFE_MAX_BITS ((uint64_t)1 << 44)

static inline uint64_t *vfe_words(const struct vfe_bitmap *bitmap)
{
	return (uint64_t *)bitmap + bitmap->words_at;
}

static inline uint64_t *vfe_l1(const struct vfe_bitmap *bitmap)
{
	return (uint64_t *)bitmap + bitmap->l1_at;
}

static inline uint64_t *vfe_l2(const struct vfe_bitmap *bitmap)
{
	return (uint64_t *)bitmap + bitmap->l2_at;
}

static inline uint64_t *vfe_l3(const struct vfe_bitmap *bitmap)
{
	return (uint64_t *)bitmap + bitmap->l3_at;
}

static inline uint64_t *vfe_gates(const struct vfe_bitmap *bitmap)
{
	return (uint64_t *)bitmap + bitmap->gates_at;
}

/** A run of dirty pages. */
struct vfe_run {
	uint64_t first;
	uint64_t npages;
};

/**
 * Make a clean bitmap. Precondition: 0 < nbits <= VFE_MAX_BITS.
 * @return NULL without memory, or if the CPU lacks `isa`.
 */
struct vfe_bitmap *vfe_bitmap_create(uint64_t nbits, enum vfe_isa isa);
void vfe_bitmap_destroy(struct vfe_bitmap *bitmap);

/** vfe_or_word() for those who met a window. */
void vfe_or_word_again(struct vfe_bitmap *bitmap, uint64_t word, uint64_t bits);

/** Mark pages [first, first + npages). Precondition: inside the bitmap. */
void vfe_mark_range(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages);

/** Mark each of `count` pages. Precondition: each < nbits. */
void vfe_mark_pages(struct vfe_bitmap *bitmap, const uint64_t *pages,
		    size_t count);

/**
 * OR `npages` bits of `src`, from bit `src_bit`, into pages from `first`.
 * `src` needs no alignment and has at least src_bit + npages bits.
 */
void vfe_merge(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
	       const void *src, uint64_t src_bit);

/**
 * Make clean those of `npages` pages from `first` whose bits are set in `src`,
 * which is read as by vfe_merge(). Summaries stay: they may promise too much.
 * A mark of the moment before is gone, so clear a page before you copy it.
 * @return whether a bit of `src` was set.
 */
bool vfe_clear_bits(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    const void *src, uint64_t src_bit);

/** Drop every bit and the residue. */
void vfe_clear(struct vfe_bitmap *bitmap);

/** @return how many pages are dirty (the residue is no page). */
uint64_t vfe_count(struct vfe_bitmap *bitmap);

/**
 * Runs of dirty pages from page *cursor on, without clearing anything.
 * @return the number of runs stored; *cursor is where to go on, nbits at the
 * end.
 */
size_t vfe_runs(struct vfe_bitmap *bitmap, uint64_t *cursor,
		struct vfe_run *runs, size_t max);

/**
 * The same for bits that came from elsewhere: `nbits` bits of `data`, which
 * needs no alignment and has whole words.
 */
size_t vfe_buffer_runs(const void *data, uint64_t nbits, uint64_t *cursor,
		       struct vfe_run *runs, size_t max);

/** How many words a harvest of all pages, shifted by `shift`, delivers. */
static inline size_t vfe_harvest_words(const struct vfe_bitmap *bitmap,
				       unsigned int shift)
{
	return (size_t)((bitmap->nbits + shift + 63) / 64);
}

/**
 * update_user_bitmap() of the kernel, with the clearing that GET_BITMAP does:
 * out = bitmap << shift, in whole words; with shift, the first word gets
 * `lead` ORed in; pages are cleared, the residue stays (`residue`) or is
 * dropped too. `out` needs no alignment and has vfe_harvest_words() words,
 * all of which are written. Precondition: shift < 64.
 */
void vfe_harvest(struct vfe_bitmap *bitmap, void *out, unsigned int shift,
		 uint64_t lead, bool residue);

/**
 * Undo vfe_harvest() after a failed copy, as the kernel leaves it: all bits of
 * the `nwords` words of `out` come back, those past the end as residue.
 */
void vfe_restore_shifted(struct vfe_bitmap *bitmap, const void *out,
			 size_t nwords);

/**
 * Undo vfe_harvest() after a successful copy by shifting back, over the
 * `nwords` words of `out`: pages come back, and those bits of the lead that
 * lie over pages; residue in these words is gone. Precondition: shift > 0.
 */
void vfe_unshift(struct vfe_bitmap *bitmap, const void *out, size_t nwords,
		 unsigned int shift);

/**
 * OR pages [first, first + npages) into `out` from bit `dst_bit` on, and clear
 * them. `out` needs no alignment and has whole words for dst_bit + npages
 * bits. Words outside those bits are not touched.
 */
void vfe_harvest_or(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    void *out, uint64_t dst_bit);

/** vfe_harvest_or() that clears nothing. */
void vfe_peek(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
	      void *out, uint64_t dst_bit);

/**
 * vfe_harvest_or() with another page size in `out`: a bit of `out` stands for
 * 2^up of our pages (aligned to 2^up from page 0: page p goes to bit dst_bit +
 * (p >> up) - (first >> up)), or, with up < 0, each page becomes 2^-up bits.
 * Precondition: -24 <= up <= 24 and `out` large enough.
 */
void vfe_harvest_scaled(struct vfe_bitmap *bitmap, uint64_t first,
			uint64_t npages, void *out, uint64_t dst_bit, int up);

/**
 * Runs of dirty pages from page *cursor on, clearing them. A chunk is taken
 * whole, so `max` is at least VFE_CHUNK_PAGES / 2.
 * @return as vfe_runs().
 */
size_t vfe_take_runs(struct vfe_bitmap *bitmap, uint64_t *cursor,
		     struct vfe_run *runs, size_t max);

/** Set a summary bit if it is clear; the load is what pairs with harvests. */
static inline void vfe_summary_set(uint64_t *word, uint64_t bit)
{
	if (!(__atomic_load_n(word, __ATOMIC_SEQ_CST) & bit))
		__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
}

/** The gate of a chunk, before bits are ORed into it. */
static inline uint64_t vfe_gate_before(const uint64_t *gate)
{
	return __atomic_load_n(gate, __ATOMIC_ACQUIRE);
}

/** Whether no window was open between vfe_gate_before() and now. */
static inline bool vfe_gate_quiet(const uint64_t *gate, uint64_t before)
{
	return !(before & 1) &&
	       __atomic_load_n(gate, __ATOMIC_SEQ_CST) == before;
}

/** Tell the upper summaries that `chunk` has a line. Both, always. */
static inline void vfe_summarise(struct vfe_bitmap *bitmap, uint64_t chunk)
{
	vfe_summary_set(&vfe_l2(bitmap)[chunk >> 6],
			(uint64_t)1 << (chunk & 63));
	vfe_summary_set(&vfe_l3(bitmap)[chunk >> 12],
			(uint64_t)1 << (chunk >> 6 & 63));
}

/**
 * OR bits into a word and all summaries. With `fenced`, a full fence has
 * followed the pages' writes, and bits that are set already are enough.
 */
static inline void vfe_or_word(struct vfe_bitmap *bitmap, uint64_t word,
			       uint64_t bits, bool fenced)
{
	uint64_t *at = &vfe_words(bitmap)[word];
	uint64_t chunk = word / VFE_CHUNK_WORDS;
	uint64_t line = word / VFE_LINE_WORDS;
	const uint64_t *gate = &vfe_gates(bitmap)[chunk];
	uint64_t before = vfe_gate_before(gate);

	if (!fenced || (__atomic_load_n(at, __ATOMIC_SEQ_CST) & bits) != bits)
		__atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST);
	vfe_summary_set(&vfe_l1(bitmap)[chunk], (uint64_t)1 << (line & 63));
	if (__builtin_expect(!vfe_gate_quiet(gate, before), 0))
		vfe_or_word_again(bitmap, word, bits);
	vfe_summarise(bitmap, chunk);
}

/** Mark one page, which has been written before. Precondition: < nbits. */
static inline void vfe_mark(struct vfe_bitmap *bitmap, uint64_t page)
{
	vfe_or_word(bitmap, page >> 6, (uint64_t)1 << (page & 63), false);
}

/**
 * Mark one page after a full fence that followed its write (and the writes of
 * other pages: one fence serves a batch). A bit that is still set is enough:
 * whoever clears it later sees the data. Without that fence it is wrong.
 */
static inline void vfe_mark_fenced(struct vfe_bitmap *bitmap, uint64_t page)
{
	vfe_or_word(bitmap, page >> 6, (uint64_t)1 << (page & 63), true);
}

/** @return whether the page is dirty. */
static inline bool vfe_test(const struct vfe_bitmap *bitmap, uint64_t page)
{
	return __atomic_load_n(&vfe_words(bitmap)[page >> 6],
			       __ATOMIC_ACQUIRE) >>
		       (page & 63) &
	       1;
}

#endif
