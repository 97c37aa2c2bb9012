/* SPDX-License-Identifier: MIT */
/*
 * The harvests that merge into what is there: device DMA logging reports, with
 * any alignment, any part of the bitmap and any page size.
 */
#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_bitmap.h"
#include "vfe_ops.h"
#include "vfe_scan.h"
#include "vfe_take.h"

#define RUNS 256

/* Where the pages of a range go: page p to bit at + p. */
struct sink {
	const struct vfe_ops *ops;
	char *out;
	int64_t at;
	unsigned int shift;
};

/* The word of out that has the first bit of a chunk; it may be negative. */
static int64_t word_of(const struct sink *sink, uint64_t chunk)
{
	return (sink->at - (int64_t)sink->shift) / 64 +
	       (int64_t)chunk * VFE_CHUNK_WORDS;
}

static void or_word(const struct sink *sink, int64_t word, uint64_t bits)
{
	char *to = sink->out + word * 8;

	/* A word without a bit may lie outside. */
	if (bits)
		vfe_store(to, 0, vfe_load(to, 0) | bits);
}

/* At the edges of the range, only words that get a bit are there for sure. */
static void or_edge(const struct sink *sink, int64_t word, uint64_t mask,
		    const uint64_t *lines)
{
	for (; mask; mask &= mask - 1, lines += VFE_LINE_WORDS) {
		int64_t to = word + __builtin_ctzll(mask) * VFE_LINE_WORDS;
		uint64_t before = 0;

		for (int64_t i = 0; i < VFE_LINE_WORDS; i++) {
			or_word(sink, to + i,
				vfe_funnel(lines[i], before, sink->shift));
			before = lines[i];
		}
		or_word(sink, to + VFE_LINE_WORDS,
			vfe_funnel(0, before, sink->shift));
	}
}

static void or_lines(const struct sink *sink, int64_t word, uint64_t mask,
		     const uint64_t *lines)
{
	for (; mask; mask &= mask - 1, lines += VFE_LINE_WORDS) {
		int64_t to = word + __builtin_ctzll(mask) * VFE_LINE_WORDS;

		sink->ops->put_or(sink->out + to * 8, lines, sink->shift);
		or_word(sink, to + VFE_LINE_WORDS,
			vfe_funnel(0, lines[VFE_LINE_WORDS - 1], sink->shift));
	}
}

static void or_chunk(const struct sink *sink, struct vfe_bitmap *bitmap,
		     uint64_t chunk)
{
	uint64_t room[VFE_CHUNK_WORDS];
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	int64_t word = word_of(sink, chunk);

	if (!vfe_gate_try(&vfe_gates(bitmap)[chunk])) {
		vfe_take_lines(bitmap, chunk, UINT64_MAX, room);
		or_lines(sink, word, UINT64_MAX, room);
		return;
	}
	uint64_t last =
		sink->ops->move_or(sink->out + word * 8, words, sink->shift);

	vfe_gate_release(&vfe_gates(bitmap)[chunk]);
	or_word(sink, word + VFE_CHUNK_WORDS, vfe_funnel(0, last, sink->shift));
}

static void or_item(const struct sink *sink, const struct vfe_haul *haul,
		    const struct vfe_item *item)
{
	struct vfe_bitmap *bitmap = haul->walk.bitmap;
	int64_t word = word_of(sink, item->chunk);

	if (!item->lines)
		or_chunk(sink, bitmap, item->chunk);
	else if (vfe_walk_whole(&haul->walk, item->chunk) &&
		 bitmap->nbits >> VFE_CHUNK_SHIFT > item->chunk)
		or_lines(sink, word, item->mask, item->lines);
	else
		or_edge(sink, word, item->mask, item->lines);
}

void vfe_harvest_or(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    void *out, uint64_t dst_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	int64_t at = (int64_t)(dst_bit - first);
	struct sink sink = {
		.ops = bitmap->ops,
		.out = out,
		.at = at,
		.shift = (unsigned int)(at & 63),
	};
	struct vfe_haul haul;

	if (!npages)
		return;
	vfe_haul_init(&haul, bitmap, first, first + npages, out, at);
	while (vfe_haul_next(&haul))
		for (size_t i = 0; i < haul.count; i++)
			or_item(&sink, &haul, &haul.items[i]);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Set bits [lo, hi) of memory that nobody else writes. */
static void set_bits(char *out, uint64_t lo, uint64_t hi)
{
	while (lo < hi) {
		size_t word = (size_t)(lo / 64);
		uint64_t base = lo - lo % 64;
		uint64_t end = hi - base < 64 ? hi - base : 64;

		vfe_store(out, word,
			  vfe_load(out, word) | vfe_mask(lo % 64, end));
		lo = base + end;
	}
}

struct scale {
	uint64_t first;
	uint64_t dst_bit;
	int up;
	char *out;
};

static void set_run(const struct scale *scale, const struct vfe_run *run)
{
	uint64_t last = run->first + run->npages - 1;
	uint64_t lo;
	uint64_t hi;

	if (scale->up >= 0) {
		lo = (run->first >> scale->up) - (scale->first >> scale->up);
		hi = (last >> scale->up) - (scale->first >> scale->up) + 1;
	} else {
		lo = (run->first - scale->first) << -scale->up;
		hi = (last - scale->first + 1) << -scale->up;
	}
	set_bits(scale->out, scale->dst_bit + lo, scale->dst_bit + hi);
}

/* Bits [lo, hi) of a chunk whose first page is `base`. */
static void set_runs(const struct scale *scale, const uint64_t *words,
		     uint64_t base, uint64_t lo, uint64_t hi)
{
	while (lo < hi) {
		struct vfe_run runs[RUNS];
		struct vfe_run_list list = { runs, 0, RUNS };

		lo = vfe_scan_runs(words, lo, hi, base, &list);
		for (size_t i = 0; i < list.count; i++)
			set_run(scale, &runs[i]);
	}
}

void vfe_harvest_scaled(struct vfe_bitmap *bitmap, uint64_t first,
			uint64_t npages, void *out, uint64_t dst_bit, int up)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	assert(up >= -24 && up <= 24);
	struct scale scale = { first, dst_bit, up, out };
	uint64_t end = first + npages;
	uint64_t words[VFE_CHUNK_WORDS];
	struct vfe_walk walk;
	uint64_t chunk;

	if (!npages)
		return;
	vfe_walk_init(&walk, bitmap, first, end, true);
	while (vfe_walk_next(&walk, &chunk)) {
		uint64_t base = chunk << VFE_CHUNK_SHIFT;
		uint64_t lo = first > base ? first - base : 0;
		uint64_t hi = end - base < VFE_CHUNK_PAGES ? end - base
							   : VFE_CHUNK_PAGES;

		vfe_take_words(bitmap, chunk, vfe_walk_whole(&walk, chunk), lo,
			       hi, words);
		set_runs(&scale, words, base, lo, hi);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
