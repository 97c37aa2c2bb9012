/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Find the chunks of a page range that may hold dirty pages, from the top of
 * the summaries downwards.
 *
 * A taking walk clears each summary bit before it looks below it, but only
 * bits whose whole chunk lies in the range: the rest must still be found by
 * the next harvest. A looking walk clears nothing.
 */
#ifndef VFE_WALK_H
#define VFE_WALK_H

#include "vfe_bitmap.h"

/** Units of one level: [lo, hi) touch the range, [full_lo, full_hi) lie in it.
 */
struct vfe_cover {
	uint64_t lo;
	uint64_t hi;
	uint64_t full_lo;
	uint64_t full_hi;
};

struct vfe_walk {
	struct vfe_bitmap *bitmap;
	struct vfe_cover chunks;
	struct vfe_cover l2;
	uint64_t next_l3;    /**< next word of l3 to look at */
	uint64_t l2_word;    /**< where chunk_bits come from */
	uint64_t l3_bits;    /**< words of l2 still to look at */
	uint64_t chunk_bits; /**< chunks still to deliver */
	bool take;
};

/** Start a walk over pages [first, end). Precondition: first < end. */
void vfe_walk_init(struct vfe_walk *walk, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, bool take);

/** @return whether there is another chunk, in *chunk, in ascending order. */
bool vfe_walk_next(struct vfe_walk *walk, uint64_t *chunk);

/** End a walk early: what it cleared and did not deliver is set again. */
void vfe_walk_stop(struct vfe_walk *walk);

/** Whether all pages of `chunk` are in the range. */
static inline bool vfe_walk_whole(const struct vfe_walk *walk, uint64_t chunk)
{
	return chunk >= walk->chunks.full_lo && chunk < walk->chunks.full_hi;
}

#endif
