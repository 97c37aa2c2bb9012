/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The IOVA index: which mapping an IOVA belongs to.
 *
 * Mappings do not overlap. They are kept sorted, in blocks of up to
 * VFE_BLOCK_MAX: a lookup is a search over the first keys of the blocks and
 * one inside a block, both without branches, so that the lookups of a batch
 * overlap in the CPU; a change moves one block's entries.
 *
 * Not thread-safe: the container's lock serialises changes and DMA.
 */
#ifndef VFE_INDEX_H
#define VFE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

#define VFE_BLOCK_MAX 15

enum vfe_prot {
	VFE_PROT_READ = 1,  /**< VFIO_DMA_MAP_FLAG_READ */
	VFE_PROT_WRITE = 2, /**< VFIO_DMA_MAP_FLAG_WRITE */
};

/** One mapping: [iova, last], which may end at 2^64 - 1. */
struct vfe_mapping {
	uint64_t iova;
	uint64_t last;
	char *host; /**< where iova is in this process, or NULL */
	struct vfe_bitmap *bitmap; /**< its dirty bitmap, or NULL */
	uint32_t prot;
};

/** The same without the iova, which is its key: two on a cache line. */
struct vfe_entry {
	uint64_t last;
	char *host;
	struct vfe_bitmap *bitmap;
	uint64_t prot;
};

/** Two cache lines of keys, and their entries. */
struct vfe_block {
	uint64_t count;
	uint64_t keys[VFE_BLOCK_MAX]; /**< the mappings' iova */
	struct vfe_entry entries[VFE_BLOCK_MAX];
} __attribute__((aligned(64)));

struct vfe_index {
	uint64_t *firsts; /**< keys[0] of each block */
	struct vfe_block **blocks;
	size_t nblocks;
	size_t room;
	size_t count;
	unsigned int pgshift; /**< of the dirty bitmaps */
};

/** @return NULL without memory. Precondition: pgshift < 64. */
struct vfe_index *vfe_index_create(unsigned int pgshift);
void vfe_index_destroy(struct vfe_index *index);

/**
 * Add a mapping.
 * @return 0; -1 without memory; 1 if it wraps, overlaps another, or has a
 * bitmap that is too small.
 */
int vfe_index_insert(struct vfe_index *index,
		     const struct vfe_mapping *mapping);

/** Remove the mapping that starts at iova. @return whether there was one. */
bool vfe_index_remove(struct vfe_index *index, uint64_t iova);

/**
 * Exchange the bitmap (NULL: none) of the mapping that starts at iova.
 * @return 0; -1 if there is none; 1 if the bitmap is too small.
 */
int vfe_index_set_bitmap(struct vfe_index *index, uint64_t iova,
			 struct vfe_bitmap *bitmap);

/** Find the mapping that contains iova. @return whether there is one. */
bool vfe_index_find(const struct vfe_index *index, uint64_t iova,
		    struct vfe_mapping *mapping);

/** How many of `count` sorted keys are <= key. */
static inline size_t vfe_rank(const uint64_t *keys, size_t count, uint64_t key)
{
	size_t base = 0;

	while (count > 1) {
		size_t half = count / 2;

		/* Arithmetic, so that the compiler makes no branch of it. */
		base += half & -(size_t)(keys[base + half - 1] <= key);
		count -= half;
	}
	return base + (count && keys[base] <= key);
}

/** The block in which iova is, or would be. Precondition: there is a block. */
static inline size_t vfe_index_block(const struct vfe_index *index,
				     uint64_t iova)
{
	size_t rank = vfe_rank(index->firsts, index->nblocks, iova);

	return rank - (rank != 0);
}

#endif
