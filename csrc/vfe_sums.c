/* SPDX-License-Identifier: MIT */
#include "vfe_sums.h"

#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_holes.h"
#include "vfe_ops.h"
#include "vfe_pages.h"

uint64_t vfe_zero_sum(size_t page_size)
{
	static const char zeros[4096];

	assert(page_size <= sizeof(zeros));
	return vfe_hash(zeros, page_size);
}

struct sorting {
	const char *memory;
	size_t page_size;
	uint64_t *sums;
	uint64_t zero_sum;
	struct vfe_list full;
	struct vfe_list zero;
	size_t max;
	uint64_t max_pages;
	bool (*is_zero)(const void *data, size_t nbytes);
};

/* Pages of a hole: one step, however many. */
static uint64_t sort_hole(struct sorting *s, uint64_t first, uint64_t count)
{
	if (!vfe_list_append(&s->zero, s->max, first, count))
		return 0;
	for (uint64_t i = 0; i < count; i++)
		s->sums[first + i] = s->zero_sum;
	return count;
}

/* @return how many pages were done; fewer when there is no room. */
static uint64_t sort_data(struct sorting *s, uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		const char *page = s->memory + (first + i) * s->page_size;
		bool zero = s->is_zero(page, s->page_size);

		if (!zero && s->full.npages == s->max_pages)
			return i;
		if (!vfe_list_append(zero ? &s->zero : &s->full, s->max,
				     first + i, 1))
			return i;
		if (zero)
			s->sums[first + i] = s->zero_sum;
		else
			vfe_page_sums(s->memory, s->page_size, first + i, 1,
				      &s->sums[first + i]);
	}
	return count;
}

bool vfe_sums_sort(const void *memory, int fd, size_t page_size,
		   const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		   uint64_t *sums, struct vfe_run *full, struct vfe_run *zero,
		   size_t max, uint64_t max_pages, uint64_t *counts,
		   enum vfe_isa isa)
{
	const struct vfe_ops *ops = vfe_ops_choose(isa);
	struct sorting s = { .memory = memory,
			     .page_size = page_size,
			     .sums = sums,
			     .zero_sum = vfe_zero_sum(page_size),
			     .full = { .runs = full },
			     .zero = { .runs = zero },
			     .max = max,
			     .max_pages = max_pages,
			     .is_zero = ops->is_zero };
	struct vfe_holes holes;
	uint64_t first = 0;
	uint64_t count = 0;
	bool room = true;

	assert(max && page_size % 64 == 0);
	vfe_holes_begin(&holes, fd, memory, page_size);
	while (room && vfe_runs_next(runs, nruns, cursor, &first, &count)) {
		bool hole;
		uint64_t done = 0;

		count = vfe_holes_extent(&holes, first, first + count, &hole);
		done = hole ? sort_hole(&s, first, count)
			    : sort_data(&s, first, count);
		cursor[1] += done;
		room = done == count;
	}
	counts[0] = s.full.count;
	counts[1] = s.zero.count;
	counts[2] = s.full.npages;
	return room;
}

void vfe_sums_take(const void *memory, int fd, size_t page_size,
		   const struct vfe_run *runs, size_t nruns, uint64_t *sums)
{
	uint64_t zero_sum = vfe_zero_sum(page_size);
	uint64_t cursor[2] = { 0, 0 };
	struct vfe_holes holes;
	uint64_t first = 0;
	uint64_t count = 0;

	vfe_holes_begin(&holes, fd, memory, page_size);
	while (vfe_runs_next(runs, nruns, cursor, &first, &count)) {
		bool hole;

		count = vfe_holes_extent(&holes, first, first + count, &hole);
		cursor[1] += count;
		if (hole)
			for (uint64_t i = 0; i < count; i++)
				sums[first + i] = zero_sum;
		else
			vfe_page_sums(memory, page_size, first, count,
				      sums + first);
	}
}

void vfe_sums_set(uint64_t *sums, const struct vfe_run *runs, size_t nruns,
		  uint64_t sum)
{
	for (size_t run = 0; run < nruns; run++)
		for (uint64_t i = 0; i < runs[run].npages; i++)
			sums[runs[run].first + i] = sum;
}

uint64_t vfe_sums_unset(const uint64_t *sums, uint64_t npages)
{
	uint64_t unset = 0;

	for (uint64_t page = 0; page < npages; page++)
		unset += sums[page] == 0;
	return unset;
}

void vfe_sums_digests(const uint64_t *sums, uint64_t npages, uint64_t chunk,
		      uint64_t *digests)
{
	assert(chunk);
	for (uint64_t first = 0; first < npages; first += chunk) {
		uint64_t count =
			npages - first < chunk ? npages - first : chunk;

		*digests++ = vfe_hash(sums + first, (size_t)count * 8);
	}
}

size_t vfe_sums_differing(const void *memory, int fd, size_t page_size,
			  uint64_t npages, const uint64_t *sums,
			  uint64_t *cursor, struct vfe_run *runs, size_t max)
{
	uint64_t zero_sum = vfe_zero_sum(page_size);
	struct vfe_list found = { .runs = runs };
	struct vfe_holes holes;

	assert(max);
	vfe_holes_begin(&holes, fd, memory, page_size);
	while (*cursor < npages) {
		bool hole;
		uint64_t end = *cursor +
			       vfe_holes_extent(&holes, *cursor, npages, &hole);

		for (; *cursor < end; ++*cursor) {
			uint64_t sum = zero_sum;

			if (!hole)
				vfe_page_sums(memory, page_size, *cursor, 1,
					      &sum);
			if (sum != sums[*cursor] &&
			    !vfe_list_append(&found, max, *cursor, 1))
				return found.count;
		}
	}
	return found.count;
}
