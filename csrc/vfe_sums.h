/* SPDX-License-Identifier: MIT */
/**
 * @file
 * A table with the sum of each page of a RAM block, and what a migration does
 * with it: all functions walk lists of runs in one call.
 *
 * `sums` has an entry for each page of `memory`. A page that was never summed
 * has 0. With `fd`, the file that is mapped at `memory`, holes of it are not
 * read; with -1 there are none. Memory may change meanwhile: see vfe_pages.h.
 *
 * Preconditions: page_size is a multiple of 64 up to 4096, runs lie inside
 * memory and table, and `isa` exists here.
 */
#ifndef VFE_SUMS_H
#define VFE_SUMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"
#include "vfe_runs.h"

/** @return the sum of a page of zeros. */
uint64_t vfe_zero_sum(size_t page_size);

/**
 * Sort the pages of `runs` into those with contents and those that are all
 * zero, and write the sum of each into the table. Both outputs have room for
 * `max` runs, at least 1.
 *
 * cursor[0] runs and cursor[1] pages of the next one are done; both begin at
 * 0. counts[0] and counts[1] are set to the runs in `full` and `zero`,
 * counts[2] to the pages in `full`.
 *
 * It ends when all runs are done, an output is full, or `full` has max_pages.
 * @return whether all runs are done.
 */
bool vfe_sums_sort(const void *memory, int fd, size_t page_size,
		   const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
		   uint64_t *sums, struct vfe_run *full, struct vfe_run *zero,
		   size_t max, uint64_t max_pages, uint64_t *counts,
		   enum vfe_isa isa);

/** Write the sums of the pages of `runs` into the table. */
void vfe_sums_take(const void *memory, int fd, size_t page_size,
		   const struct vfe_run *runs, size_t nruns, uint64_t *sums);

/** Write `sum` for each page of `runs` into the table. */
void vfe_sums_set(uint64_t *sums, const struct vfe_run *runs, size_t nruns,
		  uint64_t sum);

/** @return how many of `npages` entries are 0. */
uint64_t vfe_sums_unset(const uint64_t *sums, uint64_t npages);

/**
 * XXH64 of each `chunk` entries of the table, the last one of what is left;
 * `digests` has ceil(npages / chunk). chunk is not 0.
 */
void vfe_sums_digests(const uint64_t *sums, uint64_t npages, uint64_t chunk,
		      uint64_t *digests);

/**
 * Find the pages from *cursor to npages - 1 whose sum is not that of the
 * table, as at most `max` (at least 1) runs. *cursor becomes the first page
 * that was not looked at.
 * @return how many runs.
 */
size_t vfe_sums_differing(const void *memory, int fd, size_t page_size,
			  uint64_t npages, const uint64_t *sums,
			  uint64_t *cursor, struct vfe_run *runs, size_t max);

#endif
