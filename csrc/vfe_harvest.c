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
#include "vfe_walk.h"

/* From this size on, what is written will not be read from the cache. */
#define PAST_CACHE_BYTES ((size_t)8 << 20)

/* Where an aligned or shifted harvest has got to. */
struct sink {
	struct vfe_bitmap *bitmap;
	char *out;
	size_t nwords; /* words that hold pages; the shift may add one */
	size_t done;   /* words of out that are written */
	uint64_t last; /* the source word before those, for the carry */
	unsigned int shift;
	bool past; /* write past the cache */
};

static void store_zeros(struct sink *sink, size_t upto)
{
	char *out = sink->out + sink->done * 8;
	size_t nbytes = (upto - sink->done) * 8;

	if (upto == sink->done)
		return;
	if (sink->past)
		sink->bitmap->ops->zero_past(out, nbytes);
	else
		memset(out, 0, nbytes);
	if (sink->shift) {
		vfe_store(out, 0, vfe_funnel(0, sink->last, sink->shift));
		sink->last = 0;
	}
	sink->done = upto;
}

static void store_chunk(struct sink *sink, uint64_t chunk)
{
	uint64_t raw[VFE_LINE_WORDS + VFE_CHUNK_WORDS]
		__attribute__((aligned(64)));
	uint64_t *words = raw + VFE_LINE_WORDS;
	char *out = sink->out + sink->done * 8;
	size_t n = sink->nwords - sink->done;

	if (n > VFE_CHUNK_WORDS)
		n = VFE_CHUNK_WORDS;
	sink->done += n;
	if (n == VFE_CHUNK_WORDS && !sink->shift) {
		vfe_take_chunk(sink->bitmap, chunk, out,
			       sink->past ? VFE_STORE_PAST : VFE_STORE);
		return;
	}
	vfe_take_chunk(sink->bitmap, chunk, words, VFE_STORE);
	if (!sink->shift) {
		memcpy(out, words, n * 8);
		return;
	}
	words[-1] = sink->last;
	sink->last = words[n - 1];
	sink->bitmap->ops->shift(out, words, n, sink->shift);
}

/*
 * The two words past which there is no page: add the shifted residue and the
 * lead, and keep what lies at or past bit nbits.
 */
static void finish_residue(struct sink *sink, uint64_t lead, bool keep)
{
	struct vfe_bitmap *bitmap = sink->bitmap;
	size_t total = vfe_harvest_words(bitmap, sink->shift);
	size_t tail = (size_t)(bitmap->nbits / 64);
	uint64_t old[2] = { bitmap->residue[0], bitmap->residue[1] };

	if (sink->shift)
		vfe_store(sink->out, 0, vfe_load(sink->out, 0) | lead);
	if (!keep) {
		bitmap->residue[0] = bitmap->residue[1] = 0;
		return;
	}
	for (size_t i = 0; i < 2 && tail + i < total; i++) {
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
	struct sink sink = {
		.bitmap = bitmap,
		.out = out,
		.nwords = vfe_harvest_words(bitmap, 0),
		.shift = shift,
		.past = vfe_harvest_words(bitmap, 0) * 8 >= PAST_CACHE_BYTES,
	};
	struct vfe_walk walk;
	uint64_t chunk;

	vfe_walk_init(&walk, bitmap, 0, bitmap->nbits, true);
	while (vfe_walk_next(&walk, &chunk)) {
		store_zeros(&sink, (size_t)chunk * VFE_CHUNK_WORDS);
		store_chunk(&sink, chunk);
	}
	store_zeros(&sink, vfe_harvest_words(bitmap, shift));
	if (sink.past)
		bitmap->ops->drain();
	finish_residue(&sink, lead, residue);
	/* Whoever reads a harvested page sees what was marked. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void vfe_spoil(struct vfe_bitmap *bitmap, const void *out, size_t nwords)
{
	size_t tail = (size_t)(bitmap->nbits / 64);

	vfe_merge(bitmap, 0, bitmap->nbits, out, 0);
	for (size_t i = 0; i < 2 && tail + i < nwords; i++) {
		uint64_t bits = vfe_load(out, tail + i);

		bitmap->residue[i] |=
			i ? bits : bits & ~vfe_mask(0, bitmap->nbits % 64);
	}
}

void vfe_clear(struct vfe_bitmap *bitmap)
{
	uint64_t scratch[VFE_CHUNK_WORDS];
	struct vfe_walk walk;
	uint64_t chunk;

	vfe_walk_init(&walk, bitmap, 0, bitmap->nbits, true);
	while (vfe_walk_next(&walk, &chunk))
		vfe_take_chunk(bitmap, chunk, scratch, VFE_STORE);
	bitmap->residue[0] = bitmap->residue[1] = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
