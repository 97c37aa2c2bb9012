/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The inner loops that exist in more than one instruction set. All of them
 * work on plain memory: source words are held by a gate, or private.
 *
 * `words`, as a source, is 64-byte aligned; `out` needs no alignment. A mask
 * has one bit per line of a chunk.
 */
#ifndef VFE_OPS_H
#define VFE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

struct vfe_ops {
	/** Copy the lines of `mask` and clear them; zeros for the others. */
	void (*move)(void *out, uint64_t *words, uint64_t mask);
	/** The same past the cache; then vfe_ops.drain before others look. */
	void (*move_past)(void *out, uint64_t *words, uint64_t mask);
	/** OR the lines of `mask` into out and clear them. */
	void (*move_or)(void *out, uint64_t *words, uint64_t mask);
	/** out[i] = words[i] << shift | words[i - 1] >> 64 - shift. */
	void (*shift)(void *out, const uint64_t *words, size_t nwords,
		      unsigned int shift);
	void (*shift_or)(void *out, const uint64_t *words, size_t nwords,
			 unsigned int shift);
	/** Zeros, past the cache. */
	void (*zero_past)(void *out, size_t nbytes);
	/** Wait for what went past the cache. */
	void (*drain)(void);
	uint64_t (*count)(const uint64_t *words, size_t nwords);
	/** Whether `nbytes` (a multiple of 64) are all zero. */
	bool (*is_zero)(const void *data, size_t nbytes);
};

/** @return the loops for `isa`, or NULL if this CPU lacks it. */
const struct vfe_ops *vfe_ops_choose(enum vfe_isa isa);

/** The two tables; AVX2's is NULL where it is not compiled in. */
const struct vfe_ops *vfe_ops_portable(void);
const struct vfe_ops *vfe_ops_avx2(void);

#endif
