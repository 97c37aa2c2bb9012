/* SPDX-License-Identifier: MIT */
#include "vfe_walk.h"

#include <assert.h>

#include "vfe_atomic.h"

/*
 * Units of 2^shift pages of [first, end). At the end of the bitmap the last
 * unit may be short, and those after it, up to a whole summary word, do not
 * exist: count them in, so that words are taken in one go.
 */
static struct vfe_cover cover(const struct vfe_bitmap *bitmap, uint64_t first,
			      uint64_t end, unsigned int shift)
{
	uint64_t unit = (uint64_t)1 << shift;
	struct vfe_cover units = {
		.lo = first >> shift,
		.hi = (end + unit - 1) >> shift,
		.full_lo = (first + unit - 1) >> shift,
		.full_hi = end >> shift,
	};

	if (end == bitmap->nbits) {
		units.hi = (units.hi + 63) / 64 * 64;
		units.full_hi = units.hi;
	}
	return units;
}

void vfe_walk_init(struct vfe_walk *walk, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, bool take)
{
	assert(first < end && end <= bitmap->nbits);
	struct vfe_cover l2 = cover(bitmap, first, end, VFE_CHUNK_SHIFT + 6);

	*walk = (struct vfe_walk){
		.bitmap = bitmap,
		.chunks = cover(bitmap, first, end, VFE_CHUNK_SHIFT),
		.l2 = l2,
		.next_l3 = l2.lo / 64,
		.take = take,
	};
}

static uint64_t clip(uint64_t unit, uint64_t base)
{
	if (unit < base)
		return 0;
	return unit - base < 64 ? unit - base : 64;
}

/* Bits of summary word `index` that touch the range; clear the inner ones. */
static uint64_t enter(uint64_t *word, uint64_t index,
		      const struct vfe_cover *units, bool take)
{
	uint64_t base = index * 64;
	uint64_t touched =
		vfe_mask(clip(units->lo, base), clip(units->hi, base));

	if (!take)
		return __atomic_load_n(word, __ATOMIC_SEQ_CST) & touched;
	uint64_t inner = vfe_mask(clip(units->full_lo, base),
				  clip(units->full_hi, base));
	uint64_t taken = vfe_take_bits(word, inner);

	if (inner == touched)
		return taken;
	uint64_t edges = __atomic_load_n(word, __ATOMIC_SEQ_CST) & touched;

	return taken | (edges & ~inner);
}

static bool next_l2(struct vfe_walk *walk)
{
	struct vfe_bitmap *bitmap = walk->bitmap;

	while (!walk->l3_bits) {
		uint64_t word = walk->next_l3;

		if (word * 64 >= walk->l2.hi)
			return false;
		walk->l3_bits = enter(&vfe_l3(bitmap)[word], word, &walk->l2,
				      walk->take && bitmap->nl2 > 1);
		walk->next_l3++;
	}
	walk->l2_word = (walk->next_l3 - 1) * 64 +
			(uint64_t)__builtin_ctzll(walk->l3_bits);
	walk->l3_bits &= walk->l3_bits - 1;
	walk->chunk_bits =
		enter(&vfe_l2(bitmap)[walk->l2_word], walk->l2_word,
		      &walk->chunks, walk->take && bitmap->nchunks > 1);
	return true;
}

bool vfe_walk_next(struct vfe_walk *walk, uint64_t *chunk)
{
	while (!walk->chunk_bits)
		if (!next_l2(walk))
			return false;
	*chunk = walk->l2_word * 64 +
		 (uint64_t)__builtin_ctzll(walk->chunk_bits);
	walk->chunk_bits &= walk->chunk_bits - 1;
	return true;
}

void vfe_walk_stop(struct vfe_walk *walk)
{
	struct vfe_bitmap *bitmap = walk->bitmap;
	uint64_t l3_bits = walk->l3_bits;

	if (!walk->take)
		return;
	if (walk->chunk_bits) {
		__atomic_fetch_or(&vfe_l2(bitmap)[walk->l2_word],
				  walk->chunk_bits, __ATOMIC_SEQ_CST);
		l3_bits |= (uint64_t)1 << (walk->l2_word % 64);
	}
	if (l3_bits)
		__atomic_fetch_or(&vfe_l3(bitmap)[walk->next_l3 - 1], l3_bits,
				  __ATOMIC_SEQ_CST);
	walk->chunk_bits = 0;
	walk->l3_bits = 0;
	walk->next_l3 = bitmap->nl3;
}
