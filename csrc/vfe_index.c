/* SPDX-License-Identifier: MIT */
#include "vfe_index.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_AT_FIRST 4

struct vfe_index *vfe_index_create(unsigned int pgshift)
{
	assert(pgshift < 64);
	struct vfe_index *index = calloc(1, sizeof(*index));

	if (index)
		index->pgshift = pgshift;
	return index;
}

void vfe_index_destroy(struct vfe_index *index)
{
	if (!index)
		return;
	for (size_t i = 0; i < index->nblocks; i++)
		free(index->blocks[i]);
	free(index->blocks);
	free(index->firsts);
	free(index);
}

static bool make_room(struct vfe_index *index)
{
	if (index->nblocks < index->room)
		return true;
	size_t room = index->room ? index->room * 2 : ROOM_AT_FIRST;
	uint64_t *firsts =
		realloc(index->firsts, room * sizeof(*index->firsts));

	if (!firsts)
		return false;
	index->firsts = firsts;
	struct vfe_block **blocks =
		realloc(index->blocks, room * sizeof(*index->blocks));

	if (!blocks)
		return false;
	index->blocks = blocks;
	index->room = room;
	return true;
}

/* Put a new, still empty block at position `at`. */
static struct vfe_block *add_block(struct vfe_index *index, size_t at)
{
	struct vfe_block *block =
		make_room(index) ? aligned_alloc(64, sizeof(*block)) : NULL;

	if (!block)
		return NULL;
	block->count = 0;
	memmove(&index->blocks[at + 1], &index->blocks[at],
		(index->nblocks - at) * sizeof(*index->blocks));
	memmove(&index->firsts[at + 1], &index->firsts[at],
		(index->nblocks - at) * sizeof(*index->firsts));
	index->blocks[at] = block;
	index->firsts[at] = 0;
	index->nblocks++;
	return block;
}

static void drop_block(struct vfe_index *index, size_t at)
{
	free(index->blocks[at]);
	index->nblocks--;
	memmove(&index->blocks[at], &index->blocks[at + 1],
		(index->nblocks - at) * sizeof(*index->blocks));
	memmove(&index->firsts[at], &index->firsts[at + 1],
		(index->nblocks - at) * sizeof(*index->firsts));
}

/*
 * Move the upper half of a full block into a new one after it; of the last
 * block only the last mapping, because mappings mostly come in order.
 */
static bool split_block(struct vfe_index *index, size_t at)
{
	struct vfe_block *upper = add_block(index, at + 1);

	if (!upper)
		return false;
	struct vfe_block *lower = index->blocks[at];
	size_t keep =
		at + 2 == index->nblocks ? lower->count - 1 : lower->count / 2;

	upper->count = lower->count - keep;
	memcpy(upper->keys, &lower->keys[keep],
	       upper->count * sizeof(*upper->keys));
	memcpy(upper->entries, &lower->entries[keep],
	       upper->count * sizeof(*upper->entries));
	lower->count = keep;
	index->firsts[at + 1] = upper->keys[0];
	return true;
}

/* Whether a mapping other than itself touches [iova, last]. */
static bool overlaps(const struct vfe_index *index, uint64_t iova,
		     uint64_t last)
{
	if (!index->nblocks)
		return false;
	size_t at = vfe_index_block(index, last);
	const struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, last);

	return rank && block->entries[rank - 1].last >= iova;
}

static void put(struct vfe_index *index, size_t at,
		const struct vfe_mapping *mapping)
{
	struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, mapping->iova);

	memmove(&block->keys[rank + 1], &block->keys[rank],
		(block->count - rank) * sizeof(*block->keys));
	memmove(&block->entries[rank + 1], &block->entries[rank],
		(block->count - rank) * sizeof(*block->entries));
	block->keys[rank] = mapping->iova;
	block->entries[rank] = (struct vfe_entry){
		.last = mapping->last,
		.host = mapping->host,
		.bitmap = mapping->bitmap,
		.prot = mapping->prot,
	};
	block->count++;
	index->firsts[at] = block->keys[0];
	index->count++;
}

static bool covers(const struct vfe_index *index,
		   const struct vfe_bitmap *bitmap,
		   const struct vfe_mapping *mapping)
{
	return !bitmap || (mapping->last - mapping->iova) >> index->pgshift <
				  bitmap->nbits;
}

int vfe_index_insert(struct vfe_index *index, const struct vfe_mapping *mapping)
{
	if (mapping->last < mapping->iova ||
	    !covers(index, mapping->bitmap, mapping) ||
	    overlaps(index, mapping->iova, mapping->last))
		return 1;
	if (!index->nblocks && !add_block(index, 0))
		return -1;
	size_t at = vfe_index_block(index, mapping->iova);

	if (index->blocks[at]->count == VFE_BLOCK_MAX) {
		if (!split_block(index, at))
			return -1;
		at = vfe_index_block(index, mapping->iova);
	}
	put(index, at, mapping);
	return 0;
}

bool vfe_index_remove(struct vfe_index *index, uint64_t iova)
{
	if (!index->nblocks)
		return false;
	size_t at = vfe_index_block(index, iova);
	struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, iova);

	if (!rank || block->keys[rank - 1] != iova)
		return false;
	memmove(&block->keys[rank - 1], &block->keys[rank],
		(block->count - rank) * sizeof(*block->keys));
	memmove(&block->entries[rank - 1], &block->entries[rank],
		(block->count - rank) * sizeof(*block->entries));
	block->count--;
	index->count--;
	if (block->count)
		index->firsts[at] = block->keys[0];
	else
		drop_block(index, at);
	return true;
}

bool vfe_index_find(const struct vfe_index *index, uint64_t iova,
		    struct vfe_mapping *mapping)
{
	if (!index->nblocks)
		return false;
	const struct vfe_block *block =
		index->blocks[vfe_index_block(index, iova)];
	size_t rank = vfe_rank(block->keys, block->count, iova);
	const struct vfe_entry *entry = &block->entries[rank - (rank != 0)];

	if (!rank || entry->last < iova)
		return false;
	*mapping = (struct vfe_mapping){
		.iova = block->keys[rank - 1],
		.last = entry->last,
		.host = entry->host,
		.bitmap = entry->bitmap,
		.prot = (uint32_t)entry->prot,
	};
	return true;
}

int vfe_index_set_bitmap(struct vfe_index *index, uint64_t iova,
			 struct vfe_bitmap *bitmap)
{
	struct vfe_mapping mapping;

	if (!vfe_index_find(index, iova, &mapping) || mapping.iova != iova)
		return -1;
	if (!covers(index, bitmap, &mapping))
		return 1;
	struct vfe_block *block = index->blocks[vfe_index_block(index, iova)];
	size_t rank = vfe_rank(block->keys, block->count, iova);

	block->entries[rank - 1].bitmap = bitmap;
	return 0;
}
