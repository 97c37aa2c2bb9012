/* SPDX-License-Identifier: MIT */
#include "vfe_take.h"

#include <assert.h>

#include "vfe_atomic.h"

/* Beyond so many lines of a chunk, the hardware prefetches by itself. */
#define PREFETCH_LINES 8

static void exchange(uint64_t *packed, uint64_t *words, uint64_t mask)
{
	for (; mask; mask &= mask - 1, packed += VFE_LINE_WORDS) {
		uint64_t *line =
			words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = 0; i < VFE_LINE_WORDS; i++)
			packed[i] = vfe_take_bits(&line[i], UINT64_MAX);
	}
}

void vfe_take_lines(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t mask,
		    uint64_t *packed)
{
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	uint64_t *gate = &vfe_gates(bitmap)[chunk];

	if (!vfe_gate_try(gate)) {
		exchange(packed, words, mask);
		return;
	}
	bitmap->ops->take(packed, words, mask);
	vfe_gate_release(gate);
}

/* Bits [lo, hi) of one line, and nothing else of it. */
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

/* As vfe_take_lines(), for the lines that bits [lo, hi) touch. */
static uint64_t take_part(struct vfe_bitmap *bitmap, uint64_t chunk,
			  uint64_t lo, uint64_t hi, uint64_t *packed)
{
	assert(lo < hi && hi <= VFE_CHUNK_PAGES);
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	uint64_t *l1 = &vfe_l1(bitmap)[chunk];
	uint64_t inner = vfe_mask((lo + 511) / 512, hi / 512);
	uint64_t edges = vfe_mask(lo / 512, (hi + 511) / 512) & ~inner;
	uint64_t mask = vfe_take_summary(bitmap, chunk, inner);

	mask |= __atomic_load_n(l1, __ATOMIC_SEQ_CST) & edges;
	for (uint64_t rest = mask; rest;
	     rest &= rest - 1, packed += VFE_LINE_WORDS)
		take_part_of_line(packed, words, (size_t)__builtin_ctzll(rest),
				  lo, hi);
	return mask;
}

void vfe_take_words(struct vfe_bitmap *bitmap, uint64_t chunk, bool whole,
		    uint64_t lo, uint64_t hi, uint64_t *words)
{
	uint64_t packed[VFE_CHUNK_LINES * VFE_LINE_WORDS];
	const uint64_t *from = packed;
	uint64_t mask;

	if (whole) {
		mask = vfe_take_summary(bitmap, chunk, UINT64_MAX);
		vfe_take_lines(bitmap, chunk, mask, packed);
	} else {
		mask = take_part(bitmap, chunk, lo, hi, packed);
	}
	memset(words, 0, VFE_CHUNK_WORDS * 8);
	for (; mask; mask &= mask - 1, from += VFE_LINE_WORDS)
		memcpy(words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS,
		       from, VFE_LINE_WORDS * 8);
}

void vfe_haul_init(struct vfe_haul *haul, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, const char *out, int64_t at)
{
	vfe_walk_init(&haul->walk, bitmap, first, end, true);
	haul->first = first;
	haul->end = end;
	haul->out = out;
	haul->at = at;
}

/* Find chunks and ask for their summary words and gates. */
static void find(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	uint64_t chunk;

	haul->count = 0;
	while (haul->count < VFE_HAUL_CHUNKS &&
	       vfe_walk_next(&haul->walk, &chunk)) {
		vfe_prefetch(&vfe_l1(bitmap)[chunk]);
		vfe_prefetch(&vfe_gates(bitmap)[chunk]);
		haul->items[haul->count++].chunk = chunk;
	}
}

/* A part's summary is taken with the part, in take_part(). */
static void take_summary(struct vfe_haul *haul, struct vfe_item *item)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;

	if (vfe_walk_whole(&haul->walk, item->chunk))
		item->mask = vfe_take_summary(bitmap, item->chunk, UINT64_MAX);
	else
		item->mask = UINT64_MAX;
}

static void prefetch(const struct vfe_haul *haul, const struct vfe_item *item)
{
	const uint64_t *words =
		&vfe_words(haul->walk.bitmap)[item->chunk * VFE_CHUNK_WORDS];
	int64_t at = haul->at + ((int64_t)item->chunk << VFE_CHUNK_SHIFT);
	uint64_t mask = item->mask;

	for (int i = 0; mask && i < PREFETCH_LINES; i++, mask &= mask - 1) {
		int64_t line = __builtin_ctzll(mask);

		vfe_prefetch(words + line * VFE_LINE_WORDS);
		if (haul->out)
			vfe_prefetch(haul->out + at / 8 + line * 64);
	}
}

static uint64_t take_edge(struct vfe_haul *haul, uint64_t chunk,
			  uint64_t *packed)
{
	uint64_t base = chunk << VFE_CHUNK_SHIFT;
	uint64_t lo = haul->first > base ? haul->first - base : 0;
	uint64_t hi = haul->end - base;

	return take_part(haul->walk.bitmap, chunk, lo,
			 hi < VFE_CHUNK_PAGES ? hi : VFE_CHUNK_PAGES, packed);
}

/* Take what is sparse into `packed`. @return how many lines that were. */
static int take_item(struct vfe_haul *haul, struct vfe_item *item,
		     uint64_t *packed)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	bool complete = bitmap->nbits >> VFE_CHUNK_SHIFT > item->chunk;
	int nlines = __builtin_popcountll(item->mask);

	item->lines = packed;
	if (!vfe_walk_whole(&haul->walk, item->chunk)) {
		item->mask = take_edge(haul, item->chunk, packed);
		return __builtin_popcountll(item->mask);
	}
	if (complete && nlines >= VFE_DENSE_LINES) {
		item->lines = NULL;
		return 0;
	}
	vfe_take_lines(bitmap, item->chunk, item->mask, packed);
	return nlines;
}

/*
 * A locked instruction waits for the prefetches before it, so these go in one
 * loop, after all that is locked in the summaries and before all in the words.
 */
size_t vfe_haul_next(struct vfe_haul *haul)
{
	uint64_t *packed = haul->room;

	find(haul);
	for (size_t i = 0; i < haul->count; i++)
		take_summary(haul, &haul->items[i]);
	for (size_t i = 0; i < haul->count; i++)
		prefetch(haul, &haul->items[i]);
	for (size_t i = 0; i < haul->count; i++)
		packed += take_item(haul, &haul->items[i], packed) *
			  VFE_LINE_WORDS;
	return haul->count;
}
