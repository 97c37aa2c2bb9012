/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Runs of ones in plain memory that nobody else writes.
 */
#ifndef VFE_SCAN_H
#define VFE_SCAN_H

#include "vfe_bitmap.h"

/** An array of runs that is being filled. */
struct vfe_run_list {
	struct vfe_run *runs;
	size_t count;
	size_t max;
};

/**
 * Append the runs of bits [from, end) of `words`, numbered from `base`; a run
 * that continues the last one in the list extends it.
 * @return `end`, or the bit to go on from when the list is full.
 */
uint64_t vfe_scan_runs(const void *words, uint64_t from, uint64_t end,
		       uint64_t base, struct vfe_run_list *list);

#endif
