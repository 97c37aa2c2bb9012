/* SPDX-License-Identifier: MIT */
/**
 * @file share.h
 * Memory of the program that the daemon maps too, instead of copying from it
 * and to it (protocol/wire.md section 7). It is offered when it is first used
 * for DMA, if it is a shared mapping of a file of which we have an fd, and
 * taken back before it is unmapped, replaced or protected.
 */
#ifndef VFP_SHARE_H
#define VFP_SHARE_H

#include "preload.h"

/** Windows lie in [low, high). */
VFP_HIDDEN extern _Atomic uintptr_t vfp_shared_low, vfp_shared_high;

VFP_HIDDEN bool vfp_share_init(void);
/** [address, address + size) is about to be mapped for DMA. */
VFP_HIDDEN void vfp_share(uint64_t address, uint64_t size);
/** It is about to become something else; out of line. */
VFP_HIDDEN void vfp_unshare(uintptr_t address, size_t size);

/** The memory is about to become something else: what every munmap() asks. */
static inline void vfp_memory_goes(const void *memory, size_t size)
{
	uintptr_t address = (uintptr_t)memory;

	if (VFP_RARE(address < atomic_load_explicit(&vfp_shared_high,
						    memory_order_relaxed) &&
		     address + size >
			     atomic_load_explicit(&vfp_shared_low,
						  memory_order_relaxed)))
		vfp_unshare(address, size);
}

#endif
