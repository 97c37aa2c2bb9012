/* SPDX-License-Identifier: MIT */
#include "vfe_take.h"

#include <assert.h>

#include "vfe_atomic.h"

static void full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool vfe_harvest_begin(struct vfe_bitmap *bitmap)
{
	uint64_t nobody = 0;

	return __atomic_compare_exchange_n(&bitmap->harvester, &nobody, 1,
					   false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

void vfe_harvest_end(struct vfe_bitmap *bitmap, bool windows)
{
	if (windows)
		__atomic_store_n(&bitmap->harvester, 0, __ATOMIC_RELEASE);
	full_fence();
}

/*
 * Take a chunk's summary, inside a window if there is one. A bitmap of one
 * line has no use for it: it is always set, which saves each mark an OR.
 */
static uint64_t take_summary(struct vfe_bitmap *bitmap, uint64_t chunk,
			     bool window)
{
	uint64_t *l1 = &vfe_l1(bitmap)[chunk];

	if (bitmap->nbits <= VFE_LINE_PAGES)
		return 1;
	if (!window)
		return vfe_take_bits(l1, UINT64_MAX);
	uint64_t mask = __atomic_load_n(l1, __ATOMIC_SEQ_CST);

	__atomic_store_n(l1, 0, __ATOMIC_RELAXED);
	return mask;
}

static void exchange(uint64_t *packed, uint64_t *words, const uint64_t *at,
		     size_t n)
{
	for (size_t i = 0; i < n * VFE_LINE_WORDS; i++) {
		uint64_t *word =
			&words[at[i / VFE_LINE_WORDS] + i % VFE_LINE_WORDS];

		packed[i] = vfe_take_bits(word, UINT64_MAX);
	}
}

/* The words at which the lines of a mask begin. @return how many. */
static size_t list_lines(uint64_t chunk, uint64_t mask, uint64_t *at)
{
	size_t n = 0;

	for (; mask; mask &= mask - 1)
		at[n++] = chunk * VFE_CHUNK_WORDS +
			  (uint64_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;
	return n;
}

/* ---- edges: some bits of a chunk ---------------------------------------- */

static void take_part_of_line(uint64_t *packed, uint64_t *words, size_t line,
			      uint64_t lo, uint64_t hi)
{
	for (size_t i = 0; i < VFE_LINE_WORDS; i++) {
		size_t word = line * VFE_LINE_WORDS + i;
		uint64_t base = word * 64;
		uint64_t from = lo > base ? lo - base : 0;
		uint64_t to = hi > base ? hi - base : 0;

		packed[i] = vfe_take_bits(
			&words[word],
			vfe_mask(from < 64 ? from : 64, to < 64 ? to : 64));
	}
}

/*
 * Bits [lo, hi) of a chunk, with atomic ANDs, and nothing else of it.
 * @return the lines that are packed.
 */
static uint64_t take_part(struct vfe_bitmap *bitmap, uint64_t chunk,
			  uint64_t lo, uint64_t hi, uint64_t *packed)
{
	assert(lo < hi && hi <= VFE_CHUNK_PAGES);
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	uint64_t *l1 = &vfe_l1(bitmap)[chunk];
	uint64_t touched = vfe_mask(lo / 512, (hi + 511) / 512);
	uint64_t inner = vfe_mask((lo + 511) / 512, hi / 512);
	uint64_t mask = 0;

	if (bitmap->nbits > VFE_LINE_PAGES)
		mask = vfe_take_bits(l1, inner);
	mask |= __atomic_load_n(l1, __ATOMIC_SEQ_CST) & touched;
	for (uint64_t rest = mask; rest;
	     rest &= rest - 1, packed += VFE_LINE_WORDS)
		take_part_of_line(packed, words, (size_t)__builtin_ctzll(rest),
				  lo, hi);
	return mask;
}

/* A whole chunk, whatever it has, in a window of its own. */
static uint64_t take_all(struct vfe_bitmap *bitmap, uint64_t chunk,
			 bool windows, uint64_t *packed)
{
	uint64_t at[VFE_CHUNK_LINES];

	if (!windows) {
		uint64_t mask = take_summary(bitmap, chunk, false);

		exchange(packed, vfe_words(bitmap), at,
			 list_lines(chunk, mask, at));
		return mask;
	}
	vfe_window_open(bitmap, chunk);
	full_fence();
	uint64_t mask = take_summary(bitmap, chunk, true);

	bitmap->ops->take(packed, vfe_words(bitmap), at,
			  list_lines(chunk, mask, at));
	vfe_window_close(bitmap, chunk);
	return mask;
}

void vfe_take_words(struct vfe_bitmap *bitmap, uint64_t chunk, bool windows,
		    bool whole, uint64_t lo, uint64_t hi, uint64_t *words)
{
	uint64_t packed[VFE_CHUNK_WORDS];
	const uint64_t *from = packed;
	uint64_t mask;

	if (whole)
		mask = take_all(bitmap, chunk, windows, packed);
	else
		mask = take_part(bitmap, chunk, lo, hi, packed);
	memset(words, 0, VFE_CHUNK_WORDS * 8);
	for (; mask; mask &= mask - 1, from += VFE_LINE_WORDS)
		memcpy(words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS,
		       from, VFE_LINE_WORDS * 8);
}

/* ---- hauls -------------------------------------------------------------- */

void vfe_haul_init(struct vfe_haul *haul, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, const char *out,
		   int64_t shift_to)
{
	vfe_walk_init(&haul->walk, bitmap, first, end, true);
	haul->first = first;
	haul->end = end;
	haul->windows = vfe_harvest_begin(bitmap);
	haul->out = out;
	haul->shift_to = shift_to;
	haul->count = 0;
	haul->next = 0;
}

void vfe_haul_deinit(struct vfe_haul *haul)
{
	vfe_harvest_end(haul->walk.bitmap, haul->windows);
}

/* Find chunks and ask for their summary words and gates. */
static void find(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	uint64_t chunk;

	haul->count = 0;
	haul->next = 0;
	while (haul->count < VFE_HAUL_CHUNKS &&
	       vfe_walk_next(&haul->walk, &chunk)) {
		vfe_prefetch(&vfe_l1(bitmap)[chunk]);
		vfe_prefetch(&vfe_gates(bitmap)[chunk]);
		haul->items[haul->count++].chunk = chunk;
	}
}

/* Take the summaries, in a window on all the chunks; an edge's with itself. */
static void take_summaries(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;

	if (haul->windows) {
		for (size_t i = 0; i < haul->count; i++)
			vfe_window_open(bitmap, haul->items[i].chunk);
		full_fence();
	}
	for (size_t i = 0; i < haul->count; i++) {
		uint64_t chunk = haul->items[i].chunk;

		haul->masks[i] = 0;
		if (vfe_walk_whole(&haul->walk, chunk))
			haul->masks[i] =
				take_summary(bitmap, chunk, haul->windows);
		if (haul->windows)
			vfe_window_close(bitmap, chunk);
	}
}

static bool is_dense(uint64_t mask)
{
	if (mask == UINT64_MAX)
		return true;
	for (int i = 1; i < VFE_DENSE_LINES && mask; i++)
		mask &= mask - 1;
	return mask != 0;
}

static enum vfe_yield kind_of(const struct vfe_haul *haul, uint64_t chunk,
			      uint64_t mask)
{
	const struct vfe_bitmap *bitmap = haul->walk.bitmap;

	if (!vfe_walk_whole(&haul->walk, chunk))
		return VFE_EDGE;
	if (bitmap->nbits >> VFE_CHUNK_SHIFT <= chunk)
		return VFE_LINES;
	return is_dense(mask) ? VFE_CHUNKS : VFE_LINES;
}

/* List the lines of sparse chunks, and ask for them. */
static void list(struct vfe_haul *haul)
{
	const uint64_t *words = vfe_words(haul->walk.bitmap);
	size_t n = 0;

	for (size_t i = 0; i < haul->count; i++) {
		struct vfe_item *item = &haul->items[i];

		item->first = n;
		item->yield = kind_of(haul, item->chunk, haul->masks[i]);
		if (item->yield == VFE_LINES)
			n += list_lines(item->chunk, haul->masks[i],
					haul->all + n);
	}
	haul->items[haul->count].first = n;
	for (size_t i = 0; i < n; i++) {
		vfe_prefetch(words + haul->all[i]);
		if (haul->out)
			vfe_prefetch(haul->out + haul->shift_to / 8 +
				     (int64_t)haul->all[i] * 8);
	}
}

/* Take sparse chunks from item `next` on, as many as make a pack. */
static enum vfe_yield take_pack(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	size_t from = haul->next;
	size_t to = from;

	while (to < haul->count && haul->items[to].yield == VFE_LINES &&
	       haul->items[to].first - haul->items[from].first < VFE_PACK_LINES)
		to++;
	haul->at = haul->all + haul->items[from].first;
	haul->nlines = haul->items[to].first - haul->items[from].first;
	haul->next = to;
	if (!haul->windows) {
		exchange(haul->lines, vfe_words(bitmap), haul->at,
			 haul->nlines);
		return VFE_LINES;
	}
	for (size_t i = from; i < to; i++)
		vfe_window_open(bitmap, haul->items[i].chunk);
	full_fence();
	bitmap->ops->take(haul->lines, vfe_words(bitmap), haul->at,
			  haul->nlines);
	for (size_t i = from; i < to; i++)
		vfe_window_close(bitmap, haul->items[i].chunk);
	return VFE_LINES;
}

static enum vfe_yield take_edge(struct vfe_haul *haul, uint64_t chunk)
{
	uint64_t base = chunk << VFE_CHUNK_SHIFT;
	uint64_t lo = haul->first > base ? haul->first - base : 0;
	uint64_t hi = haul->end - base;
	uint64_t mask = take_part(haul->walk.bitmap, chunk, lo,
				  hi < VFE_CHUNK_PAGES ? hi : VFE_CHUNK_PAGES,
				  haul->lines);

	haul->at = haul->edge;
	haul->nlines = list_lines(chunk, mask, haul->edge);
	haul->next++;
	return VFE_EDGE;
}

static enum vfe_yield exchange_dense(struct vfe_haul *haul)
{
	uint64_t chunk = haul->items[haul->next++].chunk;

	haul->at = haul->edge;
	haul->nlines = list_lines(chunk, UINT64_MAX, haul->edge);
	exchange(haul->lines, vfe_words(haul->walk.bitmap), haul->at,
		 haul->nlines);
	return VFE_LINES;
}

/* Open windows on a few dense chunks; whoever moves them closes them. */
static enum vfe_yield open_dense(struct vfe_haul *haul)
{
	size_t n = 0;

	haul->chunks = &haul->items[haul->next];
	while (n < VFE_GROUP_CHUNKS && haul->next + n < haul->count &&
	       haul->chunks[n].yield == VFE_CHUNKS) {
		vfe_window_open(haul->walk.bitmap, haul->chunks[n].chunk);
		n++;
	}
	full_fence();
	haul->nchunks = n;
	haul->next += n;
	return VFE_CHUNKS;
}

/*
 * A fence or a locked instruction waits for the prefetches before it, so these
 * go in one loop, after all that is done to summaries and before all that is
 * done to words.
 */
enum vfe_yield vfe_haul_next(struct vfe_haul *haul)
{
	if (haul->next == haul->count) {
		find(haul);
		take_summaries(haul);
		list(haul);
	}
	if (haul->next == haul->count)
		return VFE_NOTHING;
	const struct vfe_item *item = &haul->items[haul->next];

	if (item->yield == VFE_EDGE)
		return take_edge(haul, item->chunk);
	if (item->yield == VFE_CHUNKS)
		return haul->windows ? open_dense(haul) : exchange_dense(haul);
	return take_pack(haul);
}
