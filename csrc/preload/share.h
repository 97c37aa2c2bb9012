/* SPDX-License-Identifier: MIT */
/**
 * @file share.h
 * Memory of the program that the daemon maps too, instead of copying from it
 * and to it (protocol/wire.md section 7). It is offered when it is first used
 * for DMA, if it is a shared mapping of a file of which we have an fd, and
 * taken back before it is unmapped, replaced or protected.
 */
#ifndef VFE_SHARE_H
#define VFE_SHARE_H

#include "preload.h"

/** Windows lie in [low, high). */
VFE_HIDDEN extern _Atomic uintptr_t vfe_shared_low, vfe_shared_high;

VFE_HIDDEN bool vfe_share_init(void);
/** [address, address + size) is about to be mapped for DMA. */
VFE_HIDDEN void vfe_share(uint64_t address, uint64_t size);
/** It is about to become something else; out of line. */
VFE_HIDDEN void vfe_unshare(uintptr_t address, size_t size);

/** The memory is about to become something else: what every munmap() asks. */
static inline void vfe_memory_goes(const void *memory, size_t size)
{
	uintptr_t address = (uintptr_t)memory;

	if (VFE_RARE(address < atomic_load_explicit(&vfe_shared_high,
						    memory_order_relaxed) &&
		     address + size >
			     atomic_load_explicit(&vfe_shared_low,
						  memory_order_relaxed)))
		vfe_unshare(address, size);
}

#endif
