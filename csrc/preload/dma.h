/* SPDX-License-Identifier: MIT */
/**
 * @file dma.h
 * Memory of the program that was mapped for DMA. An IOMMU goes on with the
 * pages that it has, whatever becomes of their addresses and their file, so
 * the daemon is told before they go, and keeps what they are (protocol/wire.md
 * section 7).
 */
#ifndef VFE_DMA_H
#define VFE_DMA_H

#include "preload.h"
#include "vfioemu_wire.h"

/** Memory that was mapped for DMA lies in [low, high). */
VFE_HIDDEN extern _Atomic uintptr_t vfe_dma_low, vfe_dma_high;
/** Whether there has been any, here or in a process that this is a fork of. */
VFE_HIDDEN extern atomic_bool vfe_dma_seen;

VFE_HIDDEN bool vfe_dma_init(void);
/** [address, address + size) is mapped for DMA. */
VFE_HIDDEN void vfe_dma_mapped(uint64_t address, uint64_t size);
/** See vfe_dma_goes(); out of line. */
VFE_HIDDEN bool vfe_dma_leaves(uintptr_t address, size_t size,
			       enum vfioemu_leaving how);
/** It has not gone (`address` again), or it has only moved there. */
VFE_HIDDEN void vfe_dma_returns(uintptr_t address, size_t size, uintptr_t to);
/** See vfe_dma_advise(); out of line. */
VFE_HIDDEN bool vfe_dma_advise_slow(uintptr_t address, size_t size, int advice,
				    int *result);
/**
 * The pages of a file from `offset` on are about to be given up; `undo`: that
 * failed. @return whether the daemon keeps some of them.
 */
VFE_HIDDEN bool vfe_dma_hole(int fd, uint64_t offset, uint64_t size, bool undo);
/** The same for a file that is about to end at `size`. */
VFE_HIDDEN bool vfe_dma_truncates(int fd, uint64_t size, bool undo);

static inline bool vfe_dma_touches(const void *memory, size_t size)
{
	uintptr_t address = (uintptr_t)memory;

	return VFE_RARE(address < atomic_load_explicit(&vfe_dma_high,
						       memory_order_relaxed) &&
			address + size >
				atomic_load_explicit(&vfe_dma_low,
						     memory_order_relaxed));
}

/**
 * madvise() that gives up memory which may be mapped for DMA. @return whether
 * it was made here, with `result` >= 0 or a negative errno.
 */
static inline bool vfe_dma_advise(const void *memory, size_t size, int advice,
				  int *result)
{
	return VFE_RARE(atomic_load_explicit(&vfe_dma_seen,
					     memory_order_relaxed)) &&
	       vfe_dma_advise_slow((uintptr_t)memory, size, advice, result);
}

/**
 * The memory is about to be unmapped, replaced or moved.
 * @return whether the daemon has been told of some of it: say if it comes back.
 */
static inline bool vfe_dma_goes(const void *memory, size_t size,
				enum vfioemu_leaving how)
{
	return vfe_dma_touches(memory, size) &&
	       vfe_dma_leaves((uintptr_t)memory, size, how);
}

#endif
