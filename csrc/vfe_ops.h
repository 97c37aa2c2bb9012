/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The inner loops that exist in more than one instruction set.
 *
 * Words of the bitmap are 64-byte aligned, and a window on their chunk is open.
 * `out` needs no alignment. A shift is 0 to 63 bits to the left, and shifts in
 * the top of the word before.
 */
#ifndef VFE_OPS_H
#define VFE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

struct vfe_ops {
	/**
	 * Take n lines of the bitmap, those that begin at words at[i], one
	 * after another into `packed`.
	 */
	void (*take)(uint64_t *packed, uint64_t *words, const uint64_t *at,
		     size_t n);

	/**
	 * Take a whole chunk to 512 words of out, shifted; `before` is the word
	 * before it. @return its last word.
	 */
	uint64_t (*move)(void *out, uint64_t *words, unsigned int shift,
			 uint64_t before);
	/** The same past the cache; out is 16-byte aligned. */
	uint64_t (*move_past)(void *out, uint64_t *words, unsigned int shift,
			      uint64_t before);
	/** The same, ORed into out; the word before is 0. */
	uint64_t (*move_or)(void *out, uint64_t *words, unsigned int shift);

	/** Store a line, shifted; `before` is the word before it. */
	void (*put)(void *out, const uint64_t *line, unsigned int shift,
		    uint64_t before);
	void (*put_past)(void *out, const uint64_t *line, unsigned int shift,
			 uint64_t before);
	/**
	 * OR n lines, one after another in `lines`, into out at words
	 * base + at[i], each with the word into which it is shifted.
	 */
	void (*put_or)(char *out, int64_t base, const uint64_t *at,
		       const uint64_t *lines, size_t n, unsigned int shift);

	/** Zeros past the cache. */
	void (*zero_past)(void *out, size_t nbytes);
	/** Wait for what went past the cache. */
	void (*drain)(void);

	/** Ones in the lines of `mask`, which others may be writing. */
	uint64_t (*count)(const uint64_t *words, uint64_t mask);
	/** Whether `nbytes` (a multiple of 64) are all zero. */
	bool (*is_zero)(const void *data, size_t nbytes);
};

/** @return the loops for `isa`, or NULL if this CPU lacks it. */
const struct vfe_ops *vfe_ops_choose(enum vfe_isa isa);

/** The two tables; AVX2's is NULL where it is not compiled in. */
const struct vfe_ops *vfe_ops_portable(void);
const struct vfe_ops *vfe_ops_avx2(void);

#endif
