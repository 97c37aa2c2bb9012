/* SPDX-License-Identifier: MIT */
/**
 * @file
 * munmap() of much memory beside threads that want to go on: they need the lock
 * of the address space for mappings of their own.
 */
#ifndef VFE_UNMAP_H
#define VFE_UNMAP_H

#include <stddef.h>

/**
 * Unmap [start, start + size), which is page aligned and ours alone, in slices.
 * @return 0, or the errno of the slice that could not be unmapped.
 */
int vfe_unmap(void *start, size_t size);

#endif
