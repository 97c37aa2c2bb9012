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
		make_room(index) ? malloc(sizeof(*block)) : NULL;

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

/* Move the upper half of a full block into a new one after it. */
static bool split_block(struct vfe_index *index, size_t at)
{
	struct vfe_block *upper = add_block(index, at + 1);

	if (!upper)
		return false;
	struct vfe_block *lower = index->blocks[at];
	size_t keep = lower->count / 2;

	upper->count = lower->count - keep;
	memcpy(upper->keys, &lower->keys[keep],
	       upper->count * sizeof(*upper->keys));
	memcpy(upper->mappings, &lower->mappings[keep],
	       upper->count * sizeof(*upper->mappings));
	lower->count = keep;
	index->firsts[at + 1] = upper->keys[0];
	return true;
}

/* The block in which iova is, or would be. Precondition: there is a block. */
static size_t block_of(const struct vfe_index *index, uint64_t iova)
{
	size_t rank = vfe_rank(index->firsts, index->nblocks, iova);

	return rank ? rank - 1 : 0;
}

/* Whether a mapping other than itself touches [iova, last]. */
static bool overlaps(const struct vfe_index *index, uint64_t iova,
		     uint64_t last)
{
	if (!index->nblocks)
		return false;
	size_t at = block_of(index, last);
	const struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, last);

	return rank && block->mappings[rank - 1].last >= iova;
}

static void put(struct vfe_index *index, size_t at,
		const struct vfe_mapping *mapping)
{
	struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, mapping->iova);

	memmove(&block->keys[rank + 1], &block->keys[rank],
		(block->count - rank) * sizeof(*block->keys));
	memmove(&block->mappings[rank + 1], &block->mappings[rank],
		(block->count - rank) * sizeof(*block->mappings));
	block->keys[rank] = mapping->iova;
	block->mappings[rank] = *mapping;
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
	size_t at = block_of(index, mapping->iova);

	if (index->blocks[at]->count == VFE_BLOCK_MAX) {
		if (!split_block(index, at))
			return -1;
		at = block_of(index, mapping->iova);
	}
	put(index, at, mapping);
	return 0;
}

bool vfe_index_remove(struct vfe_index *index, uint64_t iova)
{
	if (!index->nblocks)
		return false;
	size_t at = block_of(index, iova);
	struct vfe_block *block = index->blocks[at];
	size_t rank = vfe_rank(block->keys, block->count, iova);

	if (!rank || block->keys[rank - 1] != iova)
		return false;
	memmove(&block->keys[rank - 1], &block->keys[rank],
		(block->count - rank) * sizeof(*block->keys));
	memmove(&block->mappings[rank - 1], &block->mappings[rank],
		(block->count - rank) * sizeof(*block->mappings));
	block->count--;
	index->count--;
	if (block->count)
		index->firsts[at] = block->keys[0];
	else
		drop_block(index, at);
	return true;
}

struct vfe_mapping *vfe_index_find(const struct vfe_index *index, uint64_t iova)
{
	if (!index->nblocks)
		return NULL;
	struct vfe_block *block = index->blocks[block_of(index, iova)];
	size_t rank = vfe_rank(block->keys, block->count, iova);

	if (!rank || block->mappings[rank - 1].last < iova)
		return NULL;
	return &block->mappings[rank - 1];
}

int vfe_index_set_bitmap(struct vfe_index *index, uint64_t iova,
			 struct vfe_bitmap *bitmap)
{
	struct vfe_mapping *mapping = vfe_index_find(index, iova);

	if (!mapping || mapping->iova != iova)
		return -1;
	if (!covers(index, bitmap, mapping))
		return 1;
	mapping->bitmap = bitmap;
	return 0;
}
