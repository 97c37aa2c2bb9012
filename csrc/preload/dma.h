/* SPDX-License-Identifier: MIT */
/**
 * @file dma.h
 * Memory of the program that was mapped for DMA. An IOMMU goes on with the
 * pages that it has, whatever becomes of their addresses and their file, so
 * the daemon is told before they go, and keeps what they are (protocol/wire.md
 * section 7).
 */
#ifndef VFP_DMA_H
#define VFP_DMA_H

#include "preload.h"
#include "vfioemu_wire.h"

/** Memory that was mapped for DMA lies in [low, high). */
VFP_HIDDEN extern _Atomic uintptr_t vfp_dma_low, vfp_dma_high;
/** Whether there has been any, here or in a process that this is a fork of. */
VFP_HIDDEN extern atomic_bool vfp_dma_seen;

VFP_HIDDEN bool vfp_dma_init(void);
/** [address, address + size) is mapped for DMA. */
VFP_HIDDEN void vfp_dma_mapped(uint64_t address, uint64_t size);
/** See vfp_dma_goes(); out of line. */
VFP_HIDDEN bool vfp_dma_leaves(uintptr_t address, size_t size,
			       enum vfioemu_leaving how);
/** It has not gone (`address` again), or it has only moved there. */
VFP_HIDDEN void vfp_dma_returns(uintptr_t address, size_t size, uintptr_t to);
/** See vfp_dma_advise(); out of line. */
VFP_HIDDEN bool vfp_dma_advise_slow(uintptr_t address, size_t size, int advice,
				    int *result);
/**
 * The pages of a file from `offset` on are about to be given up; `undo`: that
 * failed. @return whether the daemon keeps some of them.
 */
VFP_HIDDEN bool vfp_dma_hole(int fd, uint64_t offset, uint64_t size, bool undo);
/** The same for a file that is about to end at `size`. */
VFP_HIDDEN bool vfp_dma_truncates(int fd, uint64_t size, bool undo);

static inline bool vfp_dma_touches(const void *memory, size_t size)
{
	uintptr_t address = (uintptr_t)memory;

	return VFP_RARE(address < atomic_load_explicit(&vfp_dma_high,
						       memory_order_relaxed) &&
			address + size >
				atomic_load_explicit(&vfp_dma_low,
						     memory_order_relaxed));
}

/**
 * madvise() that gives up memory which may be mapped for DMA. @return whether
 * it was made here, with `result` >= 0 or a negative errno.
 */
static inline bool vfp_dma_advise(const void *memory, size_t size, int advice,
				  int *result)
{
	return VFP_RARE(atomic_load_explicit(&vfp_dma_seen,
					     memory_order_relaxed)) &&
	       vfp_dma_advise_slow((uintptr_t)memory, size, advice, result);
}

/**
 * The memory is about to be unmapped, replaced or moved.
 * @return whether the daemon has been told of some of it: say if it comes back.
 */
static inline bool vfp_dma_goes(const void *memory, size_t size,
				enum vfioemu_leaving how)
{
	return vfp_dma_touches(memory, size) &&
	       vfp_dma_leaves((uintptr_t)memory, size, how);
}

#endif
