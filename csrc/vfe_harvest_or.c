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

/* Where bits go: those of the bitmap's word w to word base + w, shifted. */
struct sink {
	char *out;
	int64_t base;
	unsigned int shift;
};

static void or_word(const struct sink *sink, int64_t word, uint64_t bits)
{
	char *to = sink->out + word * 8;

	/* A word without a bit may lie outside. */
	if (bits)
		vfe_store(to, 0, vfe_load(to, 0) | bits);
}

/* At the edges of the range, only words that get a bit are there for sure. */
static void or_edge(const struct sink *sink, const struct vfe_haul *haul)
{
	const uint64_t *line = haul->lines;

	for (size_t n = 0; n < haul->nlines; n++, line += VFE_LINE_WORDS) {
		int64_t to = sink->base + (int64_t)haul->at[n];
		uint64_t before = 0;

		for (int64_t i = 0; i < VFE_LINE_WORDS; i++) {
			or_word(sink, to + i,
				vfe_funnel(line[i], before, sink->shift));
			before = line[i];
		}
		or_word(sink, to + VFE_LINE_WORDS,
			vfe_funnel(0, before, sink->shift));
	}
}

static void or_chunk(const struct sink *sink, struct vfe_bitmap *bitmap,
		     uint64_t chunk)
{
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	int64_t word = sink->base + (int64_t)chunk * VFE_CHUNK_WORDS;

	uint64_t last =
		bitmap->ops->move_or(sink->out + word * 8, words, sink->shift);

	vfe_window_close(bitmap, chunk);
	or_word(sink, word + VFE_CHUNK_WORDS, vfe_funnel(0, last, sink->shift));
}

static void or_chunks(const struct sink *sink, const struct vfe_haul *haul)
{
	for (size_t i = 0; i < haul->nchunks; i++)
		or_chunk(sink, haul->walk.bitmap, haul->chunks[i].chunk);
}

/* Whether the last of these lines lies at the end of the bitmap. */
static bool at_the_end(const struct vfe_haul *haul)
{
	const struct vfe_bitmap *bitmap = haul->walk.bitmap;

	return haul->nlines &&
	       haul->at[haul->nlines - 1] + VFE_LINE_WORDS > bitmap->nbits / 64;
}

void vfe_harvest_or(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
		    void *out, uint64_t dst_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	int64_t shift_to = (int64_t)(dst_bit - first);
	struct sink sink = {
		.out = out,
		.base = (shift_to - (shift_to & 63)) / 64,
		.shift = (unsigned int)(shift_to & 63),
	};
	struct vfe_haul haul;
	enum vfe_yield yield;

	if (!npages)
		return;
	vfe_haul_init(&haul, bitmap, first, first + npages, out, shift_to);
	while ((yield = vfe_haul_next(&haul)) != VFE_NOTHING) {
		if (yield == VFE_CHUNKS)
			or_chunks(&sink, &haul);
		else if (yield == VFE_EDGE || at_the_end(&haul))
			or_edge(&sink, &haul);
		else
			bitmap->ops->put_or(sink.out, sink.base, haul.at,
					    haul.lines, haul.nlines,
					    sink.shift);
	}
	vfe_haul_deinit(&haul);
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
	bool windows = vfe_harvest_begin(bitmap);

	vfe_walk_init(&walk, bitmap, first, end, true);
	while (vfe_walk_next(&walk, &chunk)) {
		uint64_t base = chunk << VFE_CHUNK_SHIFT;
		uint64_t lo = first > base ? first - base : 0;
		uint64_t hi = end - base < VFE_CHUNK_PAGES ? end - base
							   : VFE_CHUNK_PAGES;

		vfe_take_words(bitmap, chunk, windows,
			       vfe_walk_whole(&walk, chunk), lo, hi, words);
		set_runs(&scale, words, base, lo, hi);
	}
	vfe_harvest_end(bitmap, windows);
}
