/* SPDX-License-Identifier: MIT */
#include "vfe_take.h"

#include <assert.h>

#include "vfe_atomic.h"

/* With fewer dirty lines than this, exchanging is cheaper than the gate. */
#define GATE_WORTH_LINES 3

/* Beyond so many lines of a chunk, the hardware prefetches by itself. */
#define PREFETCH_LINES 8

static void exchange(uint64_t *packed, uint64_t *words, uint64_t mask)
{
	for (; mask; mask &= mask - 1, packed += VFE_PACKED) {
		uint64_t *line =
			words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = 0; i < VFE_LINE_WORDS; i++)
			packed[i] = vfe_take_bits(&line[i], UINT64_MAX);
		packed[VFE_LINE_WORDS] = 0;
	}
}

void vfe_take_lines(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t mask,
		    uint64_t *packed)
{
	uint64_t *words = &bitmap->words[chunk * VFE_CHUNK_WORDS];
	uint64_t *gate = &bitmap->gate[chunk];

	if (__builtin_popcountll(mask) < GATE_WORTH_LINES ||
	    !vfe_gate_try(gate)) {
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
	packed[VFE_LINE_WORDS] = 0;
}

/* As vfe_take_lines(), for the lines that bits [lo, hi) touch. */
static uint64_t take_part(struct vfe_bitmap *bitmap, uint64_t chunk,
			  uint64_t lo, uint64_t hi, uint64_t *packed)
{
	assert(lo < hi && hi <= VFE_CHUNK_PAGES);
	uint64_t *words = &bitmap->words[chunk * VFE_CHUNK_WORDS];
	uint64_t *l1 = &bitmap->l1[chunk];
	uint64_t inner = vfe_mask((lo + 511) / 512, hi / 512);
	uint64_t edges = vfe_mask(lo / 512, (hi + 511) / 512) & ~inner;
	uint64_t mask = vfe_take_bits(l1, inner);

	mask |= __atomic_load_n(l1, __ATOMIC_SEQ_CST) & edges;
	for (uint64_t rest = mask; rest; rest &= rest - 1, packed += VFE_PACKED)
		take_part_of_line(packed, words, (size_t)__builtin_ctzll(rest),
				  lo, hi);
	return mask;
}

void vfe_take_words(struct vfe_bitmap *bitmap, uint64_t chunk, bool whole,
		    uint64_t lo, uint64_t hi, uint64_t *words)
{
	uint64_t packed[VFE_CHUNK_LINES * VFE_PACKED];
	const uint64_t *from = packed;
	uint64_t mask;

	if (whole) {
		mask = vfe_take_bits(&bitmap->l1[chunk], UINT64_MAX);
		vfe_take_lines(bitmap, chunk, mask, packed);
	} else {
		mask = take_part(bitmap, chunk, lo, hi, packed);
	}
	memset(words, 0, VFE_CHUNK_WORDS * 8);
	for (; mask; mask &= mask - 1, from += VFE_PACKED)
		memcpy(words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS,
		       from, VFE_LINE_WORDS * 8);
}

void vfe_haul_init(struct vfe_haul *haul, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end)
{
	vfe_walk_init(&haul->walk, bitmap, first, end, true);
	haul->first = first;
	haul->end = end;
	haul->out = NULL;
	haul->at = 0;
	haul->room[0] = 0;
}

/* Find chunks and ask for their summary words and gates. */
static void find(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	uint64_t chunk;

	haul->count = 0;
	while (haul->count < VFE_HAUL_CHUNKS &&
	       vfe_walk_next(&haul->walk, &chunk)) {
		__builtin_prefetch(&bitmap->l1[chunk], 1);
		__builtin_prefetch(&bitmap->gate[chunk], 1);
		haul->items[haul->count++].chunk = chunk;
	}
}

static void prefetch(const struct vfe_haul *haul, const struct vfe_item *item)
{
	const uint64_t *words =
		&haul->walk.bitmap->words[item->chunk * VFE_CHUNK_WORDS];
	int64_t at = haul->at + ((int64_t)item->chunk << VFE_CHUNK_SHIFT);
	uint64_t mask = item->mask;

	for (int i = 0; mask && i < PREFETCH_LINES; i++, mask &= mask - 1) {
		int64_t line = __builtin_ctzll(mask);

		__builtin_prefetch(words + line * VFE_LINE_WORDS, 1);
		if (haul->out)
			__builtin_prefetch(haul->out + at / 8 + line * 64, 1);
	}
}

/* Take the chunks' summaries, and ask for their lines. */
static void look_into(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;

	for (size_t i = 0; i < haul->count; i++) {
		struct vfe_item *item = &haul->items[i];
		uint64_t *l1 = &bitmap->l1[item->chunk];

		/* A part's summary is taken with the part, in take_part(). */
		if (vfe_walk_whole(&haul->walk, item->chunk))
			item->mask = vfe_take_bits(l1, UINT64_MAX);
		else
			item->mask = __atomic_load_n(l1, __ATOMIC_SEQ_CST);
		prefetch(haul, item);
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

size_t vfe_haul_next(struct vfe_haul *haul)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	uint64_t *packed = haul->room + 1;

	find(haul);
	look_into(haul);
	for (size_t i = 0; i < haul->count; i++) {
		struct vfe_item *item = &haul->items[i];
		bool short_chunk =
			bitmap->nbits >> VFE_CHUNK_SHIFT <= item->chunk;
		int nlines = __builtin_popcountll(item->mask);

		item->lines = packed;
		if (!vfe_walk_whole(&haul->walk, item->chunk)) {
			item->mask = take_edge(haul, item->chunk, packed);
			nlines = __builtin_popcountll(item->mask);
		} else if (nlines < VFE_DENSE_LINES || short_chunk) {
			vfe_take_lines(bitmap, item->chunk, item->mask, packed);
		} else {
			item->lines = NULL;
			nlines = 0;
		}
		packed += nlines * VFE_PACKED;
	}
	return haul->count;
}
