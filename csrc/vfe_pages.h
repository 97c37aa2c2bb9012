/* SPDX-License-Identifier: MIT */
/**
 * @file
 * What a migration wants to know of guest pages: which are all zero, and a
 * checksum of each. Memory may change meanwhile; then the answer is that of
 * some mixture, and the page is dirty anyway.
 */
#ifndef VFE_PAGES_H
#define VFE_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

/**
 * Set bit i of `out` if page first + i is all zero, clear it if not; `out` has
 * ceil(npages / 64) words of any alignment, all of which are written.
 * Precondition: page_size is a multiple of 64, and `isa` exists here.
 * @return how many are zero.
 */
uint64_t vfe_zero_pages(const void *memory, size_t page_size, uint64_t first,
			uint64_t npages, void *out, enum vfe_isa isa);

/** @return XXH64 (seed 0) of `nbytes`, a multiple of 8. */
uint64_t vfe_hash(const void *data, size_t nbytes);

/**
 * XXH64 (seed 0) of pages first to first + npages - 1.
 * Precondition: page_size is a multiple of 32 and not 0.
 */
void vfe_page_sums(const void *memory, size_t page_size, uint64_t first,
		   uint64_t npages, uint64_t *sums);

#endif
