/* SPDX-License-Identifier: MIT */
#include "vfe_runs.h"

#include <assert.h>

#include "vfe_atomic.h"

bool vfe_list_append(struct vfe_list *list, size_t max, uint64_t first,
		     uint64_t npages)
{
	struct vfe_run *next = &list->runs[list->count];

	if (list->count && next[-1].first + next[-1].npages == first) {
		next[-1].npages += npages;
	} else {
		if (list->count == max)
			return false;
		*next = (struct vfe_run){ first, npages };
		list->count++;
	}
	list->npages += npages;
	return true;
}

bool vfe_runs_next(const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		   uint64_t *first, uint64_t *count)
{
	while (cursor[0] < nruns) {
		const struct vfe_run *run = &runs[cursor[0]];

		if (cursor[1] < run->npages) {
			*first = run->first + cursor[1];
			*count = run->npages - cursor[1];
			return true;
		}
		cursor[0]++;
		cursor[1] = 0;
	}
	return false;
}

size_t vfe_words_differing(const void *ours, const void *theirs, uint64_t count,
			   uint64_t *cursor, struct vfe_run *runs, size_t max)
{
	struct vfe_list found = { .runs = runs };

	assert(max);
	for (; *cursor < count; ++*cursor)
		if (vfe_load(ours, *cursor) != vfe_load(theirs, *cursor) &&
		    !vfe_list_append(&found, max, *cursor, 1))
			break;
	return found.count;
}

uint64_t vfe_runs_pages(const struct vfe_run *runs, size_t nruns,
			uint64_t npages)
{
	uint64_t end = 0;
	uint64_t total = 0;

	for (size_t i = 0; i < nruns; i++) {
		if (!runs[i].npages || runs[i].first < end ||
		    runs[i].first > npages ||
		    runs[i].npages > npages - runs[i].first)
			return UINT64_MAX;
		end = runs[i].first + runs[i].npages;
		total += runs[i].npages;
	}
	return total;
}

size_t vfe_runs_take(const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		     uint64_t npages, struct vfe_run *out, size_t max)
{
	uint64_t first = 0;
	uint64_t count = 0;
	size_t taken = 0;

	while (taken < max && npages &&
	       vfe_runs_next(runs, nruns, cursor, &first, &count)) {
		if (count > npages)
			count = npages;
		out[taken++] = (struct vfe_run){ first, count };
		cursor[1] += count;
		npages -= count;
	}
	return taken;
}

void vfe_runs_mark(const struct vfe_run *runs, size_t nruns,
		   const uint64_t *cursor, struct vfe_bitmap *bitmap)
{
	uint64_t at[2] = { cursor[0], cursor[1] };
	uint64_t first = 0;
	uint64_t count = 0;

	while (vfe_runs_next(runs, nruns, at, &first, &count)) {
		vfe_mark_range(bitmap, first, count);
		at[1] += count;
	}
}
