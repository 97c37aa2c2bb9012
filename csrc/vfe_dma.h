/* SPDX-License-Identifier: MIT */
/**
 * @file
 * A batch of DMA in one call: look everything up and prefetch, copy, one full
 * fence, mark. Descriptors are done in their order, VFE_DMA_STAGE at a time.
 *
 * Whatever is not plainly inside one mapping that this process has mapped is
 * left to the caller ("slow"), untouched and unmarked. So is what turns out not
 * to be there while it is copied (vfe_guard.h), but that may be written in
 * part, and is marked.
 */
#ifndef VFE_DMA_H
#define VFE_DMA_H

#include "vfe_index.h"
#include "vfe_log.h"

#define VFE_DMA_STAGE 32

enum vfe_dma_op {
	VFE_DMA_READ = 0,  /**< the device reads guest memory */
	VFE_DMA_WRITE = 1, /**< the device writes guest memory */
	VFE_DMA_HARDWARE_WRITE =
		2, /**< through an IOMMU: marked in the device's log only */
	VFE_DMA_HIDDEN_WRITE = 3, /**< marked nowhere: a device that lies */
};

enum vfe_dma_status {
	VFE_DMA_DONE = 0,
	VFE_DMA_SLOW =
		1, /**< not done: no mapping, several, not here, denied */
	VFE_DMA_BAD =
		2, /**< not done: outside the local buffer, or no such op */
};

/**
 * Whether a mapping lets an operation be done here. Hardware writes where
 * it may write; vfio_dma_rw() wants to read there, too, so what may be its
 * write is left to the caller where there is only one right of the two.
 */
static inline bool vfe_dma_allowed(uint32_t op, uint64_t prot)
{
	const uint64_t both = VFE_PROT_READ | VFE_PROT_WRITE;

	if (op == VFE_DMA_READ)
		return prot & VFE_PROT_READ;
	if (op == VFE_DMA_HARDWARE_WRITE)
		return prot & VFE_PROT_WRITE;
	return (prot & both) == both;
}

struct vfe_dma {
	uint64_t iova;
	uint64_t size;
	uint64_t local; /**< offset in the device's buffer */
	uint32_t op;
	uint32_t status; /**< out */
};

/**
 * Do a batch. `log` may be NULL; it marks writes beside the mapping's bitmap.
 * @return how many descriptors are done.
 */
size_t vfe_dma_batch(const struct vfe_index *index, const struct vfe_log *log,
		     struct vfe_dma *batch, size_t count, char *local,
		     size_t local_size);

#endif
