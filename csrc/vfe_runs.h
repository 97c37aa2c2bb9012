/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Lists of runs of pages, as a migration has them: taken apart, and put
 * together.
 */
#ifndef VFE_RUNS_H
#define VFE_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

/** Runs that are being written; neighbours become one. */
struct vfe_list {
	struct vfe_run *runs;
	size_t count;
	uint64_t npages;
};

/** @return false, and nothing is appended, if there are `max` runs. */
bool vfe_list_append(struct vfe_list *list, size_t max, uint64_t first,
		     uint64_t npages);

/**
 * Find the pages at which a walk over runs goes on: cursor[0] runs are done,
 * and cursor[1] pages of the next one. The caller adds to cursor[1] what it
 * has done.
 * @return false at the end.
 */
bool vfe_runs_next(const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		   uint64_t *first, uint64_t *count);

/**
 * Find the words from *cursor to count - 1 that are not the same, as at most
 * `max` (at least 1) runs; neither has to be aligned. *cursor becomes the
 * first word that was not looked at.
 * @return how many runs.
 */
size_t vfe_words_differing(const void *ours, const void *theirs, uint64_t count,
			   uint64_t *cursor, struct vfe_run *runs, size_t max);

/**
 * @return the pages of all runs; UINT64_MAX if one of them is empty, does not
 * begin after the end of the one before, or goes beyond `npages`.
 */
uint64_t vfe_runs_pages(const struct vfe_run *runs, size_t nruns,
			uint64_t npages);

/**
 * Copy up to `npages` pages of `runs`, in up to `max` runs, to `out`; `cursor`
 * is as for vfe_runs_next().
 * @return how many runs were copied.
 */
size_t vfe_runs_take(const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		     uint64_t npages, struct vfe_run *out, size_t max);

/** vfe_mark_range() for what vfe_runs_take() has left of `runs`. */
void vfe_runs_mark(const struct vfe_run *runs, size_t nruns,
		   const uint64_t *cursor, struct vfe_bitmap *bitmap);

#endif
