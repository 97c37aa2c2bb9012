/* SPDX-License-Identifier: MIT */
/*
 * A look at a part of the bitmap that clears nothing: what cannot be delivered
 * in one go is looked at window by window, and cleared when all has arrived.
 */
#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_bitmap.h"
#include "vfe_walk.h"

/* OR a word's bits in, of which the lowest is bit `at` of `out`. */
static void put(char *out, int64_t at, uint64_t bits)
{
	/* Below bit 0 there are no bits, only their place in the word. */
	int64_t word = (at - (at & 63)) / 64;
	unsigned int shift = (unsigned int)(at & 63);
	uint64_t low = bits << shift;
	uint64_t high = vfe_funnel(0, bits, shift);

	if (low)
		vfe_store(out + word * 8, 0, vfe_load(out + word * 8, 0) | low);
	if (high)
		vfe_store(out + word * 8, 1,
			  vfe_load(out + word * 8, 1) | high);
}

static void peek_line(const struct vfe_bitmap *bitmap, uint64_t line,
		      uint64_t first, uint64_t end, char *out, int64_t shift_to)
{
	const uint64_t *words = vfe_words(bitmap);

	for (uint64_t i = 0; i < VFE_LINE_WORDS; i++) {
		uint64_t word = line * VFE_LINE_WORDS + i;
		uint64_t base = word * 64;

		if (base >= end || base + 64 <= first)
			continue;
		uint64_t bits = __atomic_load_n(&words[word], __ATOMIC_RELAXED);

		bits &= vfe_mask(first > base ? first - base : 0,
				 end - base < 64 ? end - base : 64);
		if (bits)
			put(out, shift_to + (int64_t)base, bits);
	}
}

void vfe_peek(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages,
	      void *out, uint64_t dst_bit)
{
	assert(first <= bitmap->nbits && npages <= bitmap->nbits - first);
	int64_t shift_to = (int64_t)(dst_bit - first);
	struct vfe_walk walk;
	uint64_t chunk;

	if (!npages)
		return;
	vfe_walk_init(&walk, bitmap, first, first + npages, false);
	while (vfe_walk_next(&walk, &chunk)) {
		uint64_t mask = __atomic_load_n(&vfe_l1(bitmap)[chunk],
						__ATOMIC_ACQUIRE);

		for (; mask; mask &= mask - 1)
			peek_line(bitmap,
				  chunk * VFE_CHUNK_LINES +
					  (uint64_t)__builtin_ctzll(mask),
				  first, first + npages, out, shift_to);
	}
}
