/* SPDX-License-Identifier: MIT */
#include "vfe_dma.h"

#include <string.h>

/* What a descriptor turned out to be. */
struct target {
	char *host;
	struct vfe_mapping *mapping;
};

static enum vfe_dma_status check(const struct vfe_dma *dma,
				 const struct vfe_mapping *mapping,
				 size_t local_size)
{
	if (dma->op > VFE_DMA_HIDDEN_WRITE || dma->local > local_size ||
	    dma->size > local_size - dma->local)
		return VFE_DMA_BAD;
	if (!mapping || !mapping->host || !dma->size ||
	    dma->size - 1 > mapping->last - dma->iova)
		return VFE_DMA_SLOW;
	if (!(mapping->prot &
	      (dma->op == VFE_DMA_READ ? VFE_PROT_READ : VFE_PROT_WRITE)))
		return VFE_DMA_SLOW;
	return VFE_DMA_DONE;
}

static void prefetch(const struct vfe_index *index, const struct vfe_dma *dma,
		     const struct target *target)
{
	const struct vfe_mapping *mapping = target->mapping;

	if (dma->op == VFE_DMA_READ) {
		__builtin_prefetch(target->host, 0);
		return;
	}
	__builtin_prefetch(target->host, 1);
	if (mapping->bitmap && dma->op == VFE_DMA_WRITE) {
		uint64_t page = (dma->iova - mapping->iova) >> index->pgshift;

		__builtin_prefetch(&mapping->bitmap->words[page / 64], 1);
	}
}

static void find_all(const struct vfe_index *index, struct vfe_dma *batch,
		     struct target *targets, size_t count, size_t local_size)
{
	for (size_t i = 0; i < count; i++) {
		struct vfe_dma *dma = &batch[i];
		struct target *target = &targets[i];

		target->mapping = vfe_index_find(index, dma->iova);
		dma->status = check(dma, target->mapping, local_size);
		if (dma->status != VFE_DMA_DONE)
			continue;
		target->host = target->mapping->host +
			       (dma->iova - target->mapping->iova);
		prefetch(index, dma, target);
	}
}

static bool copy_all(const struct vfe_dma *batch, const struct target *targets,
		     size_t count, char *local)
{
	bool wrote = false;

	for (size_t i = 0; i < count; i++) {
		const struct vfe_dma *dma = &batch[i];

		if (dma->status != VFE_DMA_DONE)
			continue;
		if (dma->op == VFE_DMA_READ) {
			memcpy(local + dma->local, targets[i].host, dma->size);
			continue;
		}
		memcpy(targets[i].host, local + dma->local, dma->size);
		wrote = true;
	}
	return wrote;
}

static void mark_all(const struct vfe_index *index, const struct vfe_log *log,
		     const struct vfe_dma *batch, const struct target *targets,
		     size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct vfe_dma *dma = &batch[i];

		if (dma->status != VFE_DMA_DONE ||
		    (dma->op != VFE_DMA_WRITE &&
		     dma->op != VFE_DMA_HARDWARE_WRITE))
			continue;
		const struct vfe_mapping *mapping = targets[i].mapping;
		uint64_t offset = dma->iova - mapping->iova;

		if (mapping->bitmap && dma->op == VFE_DMA_WRITE)
			vfe_mark_bytes_fenced(mapping->bitmap, offset,
					      offset + dma->size - 1,
					      index->pgshift);
		if (log)
			vfe_log_mark(log, dma->iova, dma->iova + dma->size - 1);
	}
}

size_t vfe_dma_batch(const struct vfe_index *index, const struct vfe_log *log,
		     struct vfe_dma *batch, size_t count, char *local,
		     size_t local_size)
{
	struct target targets[VFE_DMA_STAGE];
	size_t done = 0;

	while (count) {
		size_t n = count < VFE_DMA_STAGE ? count : VFE_DMA_STAGE;

		find_all(index, batch, targets, n, local_size);
		if (copy_all(batch, targets, n, local)) {
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			mark_all(index, log, batch, targets, n);
		}
		for (size_t i = 0; i < n; i++)
			done += batch[i].status == VFE_DMA_DONE;
		batch += n;
		count -= n;
	}
	return done;
}
