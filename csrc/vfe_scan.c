/* SPDX-License-Identifier: MIT */
#include "vfe_scan.h"

#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_ops.h"
#include "vfe_take.h"
#include "vfe_walk.h"

/* The first bit in [from, end) that differs from those of `skip`; or end. */
static uint64_t next_bit(const void *words, uint64_t from, uint64_t end,
			 uint64_t skip)
{
	size_t word = (size_t)(from / 64);
	uint64_t bits = (vfe_load(words, word) ^ skip) & UINT64_MAX
								 << (from % 64);

	while (!bits) {
		word++;
		if ((uint64_t)word * 64 >= end)
			return end;
		bits = vfe_load(words, word) ^ skip;
	}
	uint64_t bit = (uint64_t)word * 64 + (uint64_t)__builtin_ctzll(bits);

	return bit < end ? bit : end;
}

uint64_t vfe_scan_runs(const void *words, uint64_t from, uint64_t end,
		       uint64_t base, struct vfe_run_list *list)
{
	while (from < end) {
		uint64_t first = next_bit(words, from, end, 0);

		if (first == end)
			return end;
		uint64_t stop = next_bit(words, first, end, UINT64_MAX);
		struct vfe_run *last =
			list->count ? &list->runs[list->count - 1] : NULL;

		if (last && last->first + last->npages == base + first) {
			last->npages += stop - first;
		} else if (list->count == list->max) {
			return first;
		} else {
			list->runs[list->count++] = (struct vfe_run){
				.first = base + first,
				.npages = stop - first,
			};
		}
		from = stop;
	}
	return end;
}

size_t vfe_buffer_runs(const void *data, uint64_t nbits, uint64_t *cursor,
		       struct vfe_run *runs, size_t max)
{
	struct vfe_run_list list = { .runs = runs, .max = max };

	*cursor = vfe_scan_runs(data, *cursor, nbits, 0, &list);
	return list.count;
}

/* Copy the dirty lines of a chunk; zeros for the others. */
static void look(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t *out)
{
	const uint64_t *words = &vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
	uint64_t mask =
		__atomic_load_n(&vfe_l1(bitmap)[chunk], __ATOMIC_ACQUIRE);

	if (~mask)
		memset(out, 0, VFE_CHUNK_WORDS * 8);
	for (; mask; mask &= mask - 1) {
		size_t word = (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = word; i < word + VFE_LINE_WORDS; i++)
			out[i] = __atomic_load_n(&words[i], __ATOMIC_RELAXED);
	}
}

static uint64_t chunk_end(const struct vfe_bitmap *bitmap, uint64_t base)
{
	return bitmap->nbits - base < VFE_CHUNK_PAGES ? bitmap->nbits - base
						      : VFE_CHUNK_PAGES;
}

size_t vfe_runs(struct vfe_bitmap *bitmap, uint64_t *cursor,
		struct vfe_run *runs, size_t max)
{
	struct vfe_run_list list = { .runs = runs, .max = max };
	uint64_t words[VFE_CHUNK_WORDS];
	uint64_t start = *cursor;
	struct vfe_walk walk;
	uint64_t chunk;

	*cursor = bitmap->nbits;
	if (start >= bitmap->nbits)
		return 0;
	vfe_walk_init(&walk, bitmap, start, bitmap->nbits, false);
	while (vfe_walk_next(&walk, &chunk)) {
		uint64_t base = chunk << VFE_CHUNK_SHIFT;
		uint64_t from = start > base ? start - base : 0;
		uint64_t end = chunk_end(bitmap, base);

		look(bitmap, chunk, words);
		uint64_t at = vfe_scan_runs(words, from, end, base, &list);

		if (at < end) {
			*cursor = base + at;
			break;
		}
	}
	return list.count;
}

size_t vfe_take_runs(struct vfe_bitmap *bitmap, uint64_t *cursor,
		     struct vfe_run *runs, size_t max)
{
	assert(max >= VFE_CHUNK_PAGES / 2);
	struct vfe_run_list list = { .runs = runs, .max = max };
	uint64_t words[VFE_CHUNK_WORDS];
	uint64_t start = *cursor;
	struct vfe_walk walk;
	uint64_t chunk;

	*cursor = bitmap->nbits;
	if (start >= bitmap->nbits)
		return 0;
	bool windows = vfe_harvest_begin(bitmap);

	vfe_walk_init(&walk, bitmap, start, bitmap->nbits, true);
	while (vfe_walk_next(&walk, &chunk)) {
		uint64_t base = chunk << VFE_CHUNK_SHIFT;
		uint64_t from = start > base ? start - base : 0;
		uint64_t end = chunk_end(bitmap, base);

		vfe_take_words(bitmap, chunk, windows,
			       vfe_walk_whole(&walk, chunk), from, end, words);
		vfe_scan_runs(words, from, end, base, &list);
		if (max - list.count < VFE_CHUNK_PAGES / 2) {
			*cursor = base + end;
			vfe_walk_stop(&walk);
			break;
		}
	}
	vfe_harvest_end(bitmap, windows);
	return list.count;
}

uint64_t vfe_count(struct vfe_bitmap *bitmap)
{
	struct vfe_walk walk;
	uint64_t chunk;
	uint64_t sum = 0;

	vfe_walk_init(&walk, bitmap, 0, bitmap->nbits, false);
	while (vfe_walk_next(&walk, &chunk)) {
		const uint64_t *words =
			&vfe_words(bitmap)[chunk * VFE_CHUNK_WORDS];
		uint64_t mask = __atomic_load_n(&vfe_l1(bitmap)[chunk],
						__ATOMIC_ACQUIRE);

		sum += bitmap->ops->count(words, mask);
	}
	return sum;
}
