/* SPDX-License-Identifier: MIT */
/**
 * @file
 * A checksum of each guest page. Memory may change meanwhile; then it is that
 * of some mixture, and the page is dirty anyway.
 */
#ifndef VFE_PAGES_H
#define VFE_PAGES_H

#include <stddef.h>
#include <stdint.h>

/** @return XXH64 (seed 0) of `nbytes`, a multiple of 8. */
uint64_t vfe_hash(const void *data, size_t nbytes);

/**
 * XXH64 (seed 0) of pages first to first + npages - 1.
 * Precondition: page_size is a multiple of 32 and not 0.
 */
void vfe_page_sums(const void *memory, size_t page_size, uint64_t first,
		   uint64_t npages, uint64_t *sums);

#endif
