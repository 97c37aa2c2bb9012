/* SPDX-License-Identifier: MIT */
#include "vfe_dma.h"

#include "vfe_atomic.h"
#include "vfe_guard.h"

#include <string.h>

/* The first lines of a page; the hardware fetches the others by itself. */
#define PREFETCH_BYTES 256

/* What a descriptor turned out to be. */
struct target {
	const struct vfe_block *block;
	const struct vfe_entry *entry; /* NULL: none */
	uint64_t offset;	       /* in the mapping */
	bool wrote;		       /* some of it, perhaps not all */
};

/* How far a batch has come, for when a copy faults. */
struct progress {
	volatile size_t at;
	volatile bool wrote;
};

static enum vfe_dma_status check(const struct vfe_dma *dma,
				 const struct vfe_entry *entry,
				 size_t local_size)
{
	if (dma->op > VFE_DMA_HIDDEN_WRITE || dma->local > local_size ||
	    dma->size > local_size - dma->local)
		return VFE_DMA_BAD;
	if (!entry || !entry->host || !dma->size || dma->iova > entry->last ||
	    dma->size - 1 > entry->last - dma->iova)
		return VFE_DMA_SLOW;
	if (!vfe_dma_allowed(dma->op, entry->prot))
		return VFE_DMA_SLOW;
	return VFE_DMA_DONE;
}

/* Which block to look into. */
static void find_block(const struct vfe_index *index, const struct vfe_dma *dma,
		       struct target *target)
{
	const struct vfe_block *block =
		index->blocks[vfe_index_block(index, dma->iova)];

	target->block = block;
	vfe_prefetch(block);
	vfe_prefetch(&block->keys[VFE_BLOCK_MAX - 1]);
}

static void find_entry(const struct vfe_dma *dma, struct target *target)
{
	const struct vfe_block *block = target->block;
	size_t rank = vfe_rank(block->keys, block->count, dma->iova);
	size_t at = rank - (rank != 0);

	target->wrote = false;
	target->entry = rank ? &block->entries[at] : NULL;
	target->offset = dma->iova - block->keys[at];
	vfe_prefetch(&block->entries[at]);
}

static void find_memory(struct vfe_dma *dma, const struct target *target,
			size_t local_size, unsigned int pgshift)
{
	const struct vfe_entry *entry = target->entry;

	dma->status = check(dma, entry, local_size);
	if (dma->status != VFE_DMA_DONE)
		return;
	for (size_t at = 0; at < PREFETCH_BYTES && at < dma->size; at += 64)
		vfe_prefetch(entry->host + target->offset + at);
	if (!entry->bitmap || dma->op != VFE_DMA_WRITE)
		return;
	/* The words of a small bitmap follow its header. */
	uint64_t page = target->offset >> pgshift;

	vfe_prefetch(&entry->bitmap->nbits);
	vfe_prefetch((const char *)(entry->bitmap + 1) + page / 64 * 8);
}

static void find_words(const struct vfe_index *index, const struct vfe_dma *dma,
		       const struct target *target)
{
	if (dma->status != VFE_DMA_DONE || dma->op != VFE_DMA_WRITE ||
	    !target->entry->bitmap)
		return;
	const struct vfe_bitmap *bitmap = target->entry->bitmap;
	uint64_t page = target->offset >> index->pgshift;

	vfe_prefetch(&vfe_words(bitmap)[page / 64]);
	if (bitmap->nbits <= VFE_CHUNK_PAGES)
		return;
	vfe_prefetch(&vfe_l1(bitmap)[page / VFE_CHUNK_PAGES]);
	vfe_prefetch(&vfe_gates(bitmap)[page / VFE_CHUNK_PAGES]);
}

static void copy(const struct vfe_dma *dma, struct target *target, char *local)
{
	if (dma->status != VFE_DMA_DONE)
		return;
	char *host = target->entry->host + target->offset;

	if (dma->op == VFE_DMA_READ) {
		memcpy(local + dma->local, host, dma->size);
		return;
	}
	target->wrote = true;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	memcpy(host, local + dma->local, dma->size);
}

/*
 * Each step asks for the memory that the next one needs, for all descriptors.
 * (A pipeline that does a step of each of five descriptors in turn, copies
 * among them, is slower: the CPU overlaps more of a loop that does one thing.)
 */
static void find_all(const struct vfe_index *index, struct vfe_dma *batch,
		     struct target *targets, size_t count, size_t local_size)
{
	if (!index->nblocks) {
		for (size_t i = 0; i < count; i++) {
			batch[i].status = check(&batch[i], NULL, local_size);
			targets[i].wrote = false;
		}
		return;
	}
	for (size_t i = 0; i < count; i++)
		find_block(index, &batch[i], &targets[i]);
	for (size_t i = 0; i < count; i++)
		find_entry(&batch[i], &targets[i]);
	for (size_t i = 0; i < count; i++)
		find_memory(&batch[i], &targets[i], local_size, index->pgshift);
	for (size_t i = 0; i < count; i++)
		find_words(index, &batch[i], &targets[i]);
}

/* Go on where `progress` is. Not inlined: its own variables need not survive a
 * jump out of it. */
static __attribute__((noinline)) void copy_on(const struct vfe_dma *batch,
					      struct target *targets,
					      size_t count, char *local,
					      struct progress *progress)
{
	bool wrote = progress->wrote;

	for (size_t i = progress->at; i < count; i++) {
		progress->at = i;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		copy(&batch[i], &targets[i], local);
		wrote |= targets[i].wrote;
	}
	progress->wrote = wrote;
}

/*
 * A file under a mapping may have been truncated (io/memory/sharing.py): that
 * descriptor is left to the caller, who finds the same and says so. It may
 * have written some of it.
 * @return whether anything was written.
 */
static bool copy_all(struct vfe_dma *batch, struct target *targets,
		     size_t count, char *local)
{
	struct progress progress = { 0, false };
	struct vfe_guard guard;

	if (vfe_guard_enter(&guard)) {
		batch[progress.at].status = VFE_DMA_SLOW;
		progress.wrote = true;
		progress.at = progress.at + 1;
	}
	copy_on(batch, targets, count, local, &progress);
	vfe_guard_leave(&guard);
	return progress.wrote;
}

static void mark_all(const struct vfe_index *index, const struct vfe_log *log,
		     const struct vfe_dma *batch, const struct target *targets,
		     size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct vfe_dma *dma = &batch[i];
		uint64_t offset = targets[i].offset;

		if (!targets[i].wrote || (dma->op != VFE_DMA_WRITE &&
					  dma->op != VFE_DMA_HARDWARE_WRITE))
			continue;
		struct vfe_bitmap *bitmap = targets[i].entry->bitmap;

		if (bitmap && dma->op == VFE_DMA_WRITE)
			vfe_mark_bytes_fenced(bitmap, offset,
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
