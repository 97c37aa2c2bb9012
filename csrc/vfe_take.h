/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Take the bits of one chunk: with the gate and plain moves if there is much
 * to take and the gate is free, else word by word with an atomic exchange.
 */
#ifndef VFE_TAKE_H
#define VFE_TAKE_H

#include "vfe_bitmap.h"

/** Where taken words go. */
enum vfe_sink {
	VFE_STORE,	/**< out = words, zeros where nothing was dirty */
	VFE_STORE_PAST, /**< the same, past the cache */
	VFE_OR,		/**< out |= words */
};

/**
 * Take a whole chunk into `out`, 512 words of any alignment.
 * @return a bit for each line that may have had something.
 */
uint64_t vfe_take_chunk(struct vfe_bitmap *bitmap, uint64_t chunk, void *out,
			enum vfe_sink sink);

/**
 * Take bits [lo, hi) of a chunk, and leave the others and whatever summary
 * they need. Stores 512 words: the bits at their place, zeros elsewhere.
 * @return a bit for each line that may have had something.
 */
uint64_t vfe_take_part(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t lo,
		       uint64_t hi, uint64_t *out);

#endif
