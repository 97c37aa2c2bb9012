/* SPDX-License-Identifier: MIT */
/*
 * The harvest that overwrites: what the kernel's update_user_bitmap() does
 * with the bitmap of one mapping.
 */
#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_bitmap.h"
#include "vfe_ops.h"
#include "vfe_take.h"

/* From this size on, what is written will not be read from the cache. */
#define PAST_CACHE_BYTES ((size_t)8 << 20)

/* Where a harvest has got to. */
struct sink {
	const struct vfe_ops *ops;
	char *out;
	size_t total;	 /* words of out */
	size_t done;	 /* words that are written: a multiple of a line */
	uint64_t before; /* the source word before those */
	unsigned int shift;
	bool past; /* write past the cache */
};

/* The end of out may cut the last line short. */
static void put_short(struct sink *sink, const uint64_t *line)
{
	char *out = sink->out + sink->done * 8;
	uint64_t before = sink->before;

	for (size_t i = 0; sink->done < sink->total; i++, sink->done++) {
		vfe_store(out, i, vfe_funnel(line[i], before, sink->shift));
		before = line[i];
	}
}

static void put_line(struct sink *sink, const uint64_t *line)
{
	char *out = sink->out + sink->done * 8;

	if (sink->total - sink->done < VFE_LINE_WORDS) {
		put_short(sink, line);
		return;
	}
	if (sink->past)
		sink->ops->put_past(out, line, sink->shift, sink->before);
	else
		sink->ops->put(out, line, sink->shift, sink->before);
	sink->before = line[VFE_LINE_WORDS - 1];
	sink->done += VFE_LINE_WORDS;
}

/* Zeros up to word `upto`, after what the last word shifts out. */
static void put_zeros(struct sink *sink, size_t upto)
{
	if (upto > sink->done && sink->shift && sink->before) {
		static const uint64_t none[VFE_LINE_WORDS];

		put_line(sink, none);
	}
	if (upto <= sink->done)
		return;
	char *out = sink->out + sink->done * 8;
	size_t nbytes = (upto - sink->done) * 8;

	if (sink->past)
		sink->ops->zero_past(out, nbytes);
	else
		memset(out, 0, nbytes);
	sink->before = 0;
	sink->done = upto;
}

/* A dense chunk goes straight from the bitmap to out. */
static void put_chunk(struct sink *sink, struct vfe_bitmap *bitmap,
		      uint64_t chunk)
{
	uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];

	put_zeros(sink, (size_t)chunk * VFE_CHUNK_WORDS);
	char *out = sink->out + sink->done * 8;

	if (sink->past)
		sink->before = sink->ops->move_past(out, words, sink->shift,
						    sink->before);
	else
		sink->before =
			sink->ops->move(out, words, sink->shift, sink->before);
	vfe_window_close(bitmap, chunk);
	sink->done += VFE_CHUNK_WORDS;
}

static void put_chunks(struct sink *sink, const struct vfe_haul *haul)
{
	for (size_t i = 0; i < haul->nchunks; i++)
		put_chunk(sink, haul->walk.bitmap, haul->chunks[i].chunk);
}

static void put_lines(struct sink *sink, const struct vfe_haul *haul)
{
	for (size_t i = 0; i < haul->nlines; i++) {
		put_zeros(sink, (size_t)haul->at[i]);
		put_line(sink, haul->lines + i * VFE_LINE_WORDS);
	}
}

static void put_all(struct sink *sink, struct vfe_bitmap *bitmap)
{
	struct vfe_haul haul;
	enum vfe_yield yield;

	vfe_haul_init(&haul, bitmap, 0, bitmap->nbits, NULL, 0);
	while ((yield = vfe_haul_next(&haul)) != VFE_NOTHING) {
		if (yield == VFE_CHUNKS)
			put_chunks(sink, &haul);
		else
			put_lines(sink, &haul);
	}
	put_zeros(sink, sink->total);
	if (sink->past)
		bitmap->ops->drain();
	vfe_haul_deinit(&haul);
}

/*
 * The two words past which there is no page: add the shifted residue and the
 * lead, and keep what lies at or past bit nbits.
 */
static void finish_residue(struct vfe_bitmap *bitmap, const struct sink *sink,
			   uint64_t lead, bool keep)
{
	size_t tail = (size_t)(bitmap->nbits / 64);
	uint64_t old[2] = { bitmap->residue[0], bitmap->residue[1] };

	if (sink->shift)
		vfe_store(sink->out, 0, vfe_load(sink->out, 0) | lead);
	if (!keep) {
		bitmap->residue[0] = bitmap->residue[1] = 0;
		return;
	}
	for (size_t i = 0; i < 2 && tail + i < sink->total; i++) {
		uint64_t mine = vfe_funnel(old[i], i ? old[0] : 0, sink->shift);
		uint64_t bits = vfe_load(sink->out, tail + i) | mine;

		vfe_store(sink->out, tail + i, bits);
		bitmap->residue[i] =
			i ? bits : bits & ~vfe_mask(0, bitmap->nbits % 64);
	}
}

void vfe_harvest(struct vfe_bitmap *bitmap, void *out, unsigned int shift,
		 uint64_t lead, bool residue)
{
	assert(shift < 64);
	size_t total = vfe_harvest_words(bitmap, shift);
	struct sink sink = {
		.ops = bitmap->ops,
		.out = out,
		.total = total,
		.shift = shift,
		.past = total * 8 >= PAST_CACHE_BYTES &&
			((uintptr_t)out & 15) == 0,
	};

	put_all(&sink, bitmap);
	finish_residue(bitmap, &sink, lead, residue);
}

void vfe_restore_shifted(struct vfe_bitmap *bitmap, const void *out,
			 size_t nwords)
{
	size_t tail = (size_t)(bitmap->nbits / 64);

	vfe_merge(bitmap, 0, bitmap->nbits, out, 0);
	for (size_t i = 0; i < 2 && tail + i < nwords; i++) {
		uint64_t bits = vfe_load(out, tail + i);

		bitmap->residue[i] |=
			i ? bits : bits & ~vfe_mask(0, bitmap->nbits % 64);
	}
}

void vfe_unshift(struct vfe_bitmap *bitmap, const void *out, size_t nwords,
		 unsigned int shift)
{
	size_t tail = (size_t)(bitmap->nbits / 64);

	assert(shift > 0 && nwords * 64 >= bitmap->nbits + shift);
	vfe_merge(bitmap, 0, bitmap->nbits, out, shift);
	for (size_t i = 0; i < 2 && tail + i < nwords; i++)
		bitmap->residue[i] = 0;
}

void vfe_clear(struct vfe_bitmap *bitmap)
{
	uint64_t scratch[VFE_CHUNK_WORDS];
	bool windows = vfe_harvest_begin(bitmap);
	struct vfe_walk walk;
	uint64_t chunk;

	vfe_walk_init(&walk, bitmap, 0, bitmap->nbits, true);
	while (vfe_walk_next(&walk, &chunk))
		vfe_take_words(bitmap, chunk, windows, true, 0, VFE_CHUNK_PAGES,
			       scratch);
	bitmap->residue[0] = bitmap->residue[1] = 0;
	vfe_harvest_end(bitmap, windows);
}
