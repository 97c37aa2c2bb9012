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
#include "vfe_walk.h"

/* With fewer dirty lines than this, lines are merged one by one. */
#define WHOLE_WORTH_LINES 16
#define RUNS		  256

/* A chunk's words, with room around them for what a shift carries. */
struct taken {
	uint64_t before[VFE_LINE_WORDS];
	uint64_t words[VFE_CHUNK_WORDS];
	uint64_t after[VFE_LINE_WORDS];
} __attribute__((aligned(64)));

/* The pages [lo, hi) of a chunk that are in the range, and their lines. */
struct part {
	uint64_t lo;
	uint64_t hi;
	uint64_t lines;
};

static struct part part_of(uint64_t chunk, uint64_t first, uint64_t end)
{
	uint64_t base = chunk << VFE_CHUNK_SHIFT;

	return (struct part){
		.lo = first > base ? first - base : 0,
		.hi = end - base < VFE_CHUNK_PAGES ? end - base
						   : VFE_CHUNK_PAGES,
	};
}

static void take(struct vfe_walk *walk, uint64_t chunk, struct part *part,
		 struct taken *taken)
{
	if (vfe_walk_whole(walk, chunk))
		part->lines = vfe_take_chunk(walk->bitmap, chunk, taken->words,
					     VFE_STORE);
	else
		part->lines = vfe_take_part(walk->bitmap, chunk, part->lo,
					    part->hi, taken->words);
}

/*
 * Bit b of the chunk goes to bit at + b of out. `at` may be negative: only
 * those of out's words are touched to which bits [lo, hi) go.
 */
static void or_part(const struct vfe_ops *ops, const struct taken *taken,
		    const struct part *part, char *out, int64_t at)
{
	unsigned int shift = (unsigned int)(at & 63);
	int64_t word = (at - (int64_t)shift) / 64;
	int64_t lo = (int64_t)(part->lo / 64);
	int64_t hi = (at + (int64_t)part->hi - 1) / 64 - word + 1;

	if (lo < -word)
		lo = -word;
	if (__builtin_popcountll(part->lines) >= WHOLE_WORTH_LINES) {
		ops->shift_or(out + (word + lo) * 8, &taken->words[lo],
			      (size_t)(hi - lo), shift);
		return;
	}
	for (uint64_t rest = part->lines; rest; rest &= rest - 1) {
		int64_t line = __builtin_ctzll(rest) * VFE_LINE_WORDS;
		int64_t from = line < lo ? lo : line;
		int64_t to = line + VFE_LINE_WORDS + 1;

		if (to > hi)
			to = hi;
		if (from < to)
			ops->shift_or(out + (word + from) * 8,
				      &taken->words[from], (size_t)(to - from),
				      shift);
	}
}

void vfe_harvest_or(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    void *out, uint64_t dst_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	struct taken taken = { .before = { 0 }, .after = { 0 } };
	struct vfe_walk walk;
	uint64_t chunk;

	if (!npages)
		return;
	vfe_walk_init(&walk, bitmap, first, first + npages, true);
	while (vfe_walk_next(&walk, &chunk)) {
		struct part part = part_of(chunk, first, first + npages);
		int64_t at =
			(int64_t)((chunk << VFE_CHUNK_SHIFT) + dst_bit - first);

		if (!(at & 63) && at >= 0 && part.hi == VFE_CHUNK_PAGES &&
		    vfe_walk_whole(&walk, chunk)) {
			vfe_take_chunk(bitmap, chunk, (char *)out + at / 8,
				       VFE_OR);
			continue;
		}
		take(&walk, chunk, &part, &taken);
		or_part(bitmap->ops, &taken, &part, out, at);
	}
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

void vfe_harvest_scaled(struct vfe_bitmap *bitmap, uint64_t first,
			uint64_t npages, void *out, uint64_t dst_bit, int up)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	assert(up >= -24 && up <= 24);
	struct scale scale = { first, dst_bit, up, out };
	struct taken taken;
	struct vfe_walk walk;
	uint64_t chunk;

	if (!npages)
		return;
	vfe_walk_init(&walk, bitmap, first, first + npages, true);
	while (vfe_walk_next(&walk, &chunk)) {
		struct part part = part_of(chunk, first, first + npages);
		uint64_t from = part.lo;

		take(&walk, chunk, &part, &taken);
		while (from < part.hi) {
			struct vfe_run runs[RUNS];
			struct vfe_run_list list = { runs, 0, RUNS };

			from = vfe_scan_runs(taken.words, from, part.hi,
					     chunk << VFE_CHUNK_SHIFT, &list);
			for (size_t i = 0; i < list.count; i++)
				set_run(&scale, &runs[i]);
		}
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
