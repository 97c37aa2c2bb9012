/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Take bits out of chunks: with the gate and plain moves if there is much to
 * take and the gate is free, else word by word with an atomic exchange.
 *
 * A haul is a number of chunks whose memory is asked for all at once before any
 * of it is used: a sparse bitmap is nothing but cache misses.
 */
#ifndef VFE_TAKE_H
#define VFE_TAKE_H

#include "vfe_atomic.h"
#include "vfe_bitmap.h"
#include "vfe_ops.h"
#include "vfe_walk.h"

#define VFE_HAUL_CHUNKS 32

/** With as many dirty lines as this, moving all lines is cheaper. */
#define VFE_DENSE_LINES 16

/** A chunk that may have dirty lines. */
struct vfe_item {
	uint64_t chunk;
	uint64_t mask;	 /**< the lines */
	uint64_t *lines; /**< packed; NULL: still there, take all (dense) */
};

/** Edges of the range and the end of the bitmap may come as many lines. */
#define VFE_HAUL_LINES (VFE_HAUL_CHUNKS * VFE_DENSE_LINES + 2 * VFE_CHUNK_LINES)

struct vfe_haul {
	struct vfe_walk walk;
	uint64_t first; /**< pages of the range */
	uint64_t end;
	const char *out; /**< what will be merged into, or NULL */
	int64_t at;	 /**< where page 0 goes in there, in bits */
	size_t count;
	struct vfe_item items[VFE_HAUL_CHUNKS];
	uint64_t room[VFE_HAUL_LINES * VFE_LINE_WORDS]
		__attribute__((aligned(64)));
};

/**
 * Start taking pages [first, end). Precondition: first < end. `out`, of which
 * page p will be merged into bit at + p, may be NULL; it is only prefetched.
 */
void vfe_haul_init(struct vfe_haul *haul, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, const char *out, int64_t at);

/** Take the next chunks in ascending order. @return how many: items[]. */
size_t vfe_haul_next(struct vfe_haul *haul);

/**
 * Take summary bits of a chunk's lines. A bitmap of one line has no use for
 * its summary, which is always set: it saves each mark an atomic OR.
 */
static inline uint64_t vfe_take_summary(struct vfe_bitmap *bitmap,
					uint64_t chunk, uint64_t lines)
{
	if (bitmap->nbits <= VFE_LINE_PAGES)
		return lines & 1;
	return vfe_take_bits(&vfe_l1(bitmap)[chunk], lines);
}

/** Take the lines of `mask` of a chunk, one after another, into `packed`. */
void vfe_take_lines(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t mask,
		    uint64_t *packed);

/**
 * Take bits [lo, hi) of a chunk into 512 words; zeros elsewhere. If the chunk
 * is not `whole`, what is outside and whatever summary it needs stays.
 */
void vfe_take_words(struct vfe_bitmap *bitmap, uint64_t chunk, bool whole,
		    uint64_t lo, uint64_t hi, uint64_t *words);

#endif
