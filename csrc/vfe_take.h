/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Take bits out of chunks: through windows (vfe_bitmap.h) and with plain moves
 * if nobody else harvests, else word by word with an atomic exchange.
 *
 * A haul is a number of chunks whose memory is asked for all at once before any
 * of it is used: a sparse bitmap is nothing but cache misses.
 */
#ifndef VFE_TAKE_H
#define VFE_TAKE_H

#include "vfe_bitmap.h"
#include "vfe_ops.h"
#include "vfe_walk.h"

#define VFE_HAUL_CHUNKS 32

/** With as many dirty lines as this, moving the whole chunk is cheaper. */
#define VFE_DENSE_LINES 16

/** Dense chunks are moved in groups: a fence for each would cost a tenth. */
#define VFE_GROUP_CHUNKS 4

/** Lines are taken in packs of at least this many: a copy of 4 KiB. */
#define VFE_PACK_LINES 64

/** Whoever gets it may open windows, until vfe_harvest_end(). */
bool vfe_harvest_begin(struct vfe_bitmap *bitmap);

/** The end of a harvest: whoever reads a harvested page sees what was marked.
 */
void vfe_harvest_end(struct vfe_bitmap *bitmap, bool windows);

/** Open a window; a full fence must follow before the first look into it. */
static inline void vfe_window_open(struct vfe_bitmap *bitmap, uint64_t chunk)
{
	uint64_t *gate = &vfe_gates(bitmap)[chunk];

	__atomic_store_n(gate, __atomic_load_n(gate, __ATOMIC_RELAXED) + 1,
			 __ATOMIC_RELAXED);
}

static inline void vfe_window_close(struct vfe_bitmap *bitmap, uint64_t chunk)
{
	uint64_t *gate = &vfe_gates(bitmap)[chunk];

	__atomic_store_n(gate, __atomic_load_n(gate, __ATOMIC_RELAXED) + 1,
			 __ATOMIC_RELEASE);
}

/** What a step of a haul yields. */
enum vfe_yield {
	VFE_NOTHING, /**< the end */
	VFE_LINES,   /**< whole lines */
	VFE_EDGE, /**< the same, but of some only a part exists in the range */
	VFE_CHUNKS, /**< dense chunks: move each, then close its window */
};

/** A chunk that may have dirty lines. */
struct vfe_item {
	uint64_t chunk;
	enum vfe_yield yield;
	size_t first; /**< of haul.at; their number is up to the next item's */
};

/** The last chunk may be short, and is sparse then whatever it has. */
#define VFE_HAUL_LINES (VFE_HAUL_CHUNKS * VFE_DENSE_LINES + VFE_CHUNK_LINES)

struct vfe_haul {
	struct vfe_walk walk;
	uint64_t first; /**< pages of the range */
	uint64_t end;
	bool windows;
	const char *out;  /**< what will be merged into, or NULL */
	int64_t shift_to; /**< where page 0 goes in there, in bits */

	/* What the last step yielded. */
	size_t nchunks;		       /**< VFE_CHUNKS: how many, */
	const struct vfe_item *chunks; /**< and which */
	size_t nlines;	    /**< VFE_LINES, VFE_EDGE: how many lines */
	const uint64_t *at; /**< the words of the bitmap where they begin */
	uint64_t lines[2 * VFE_PACK_LINES * VFE_LINE_WORDS]
		__attribute__((aligned(64)));

	/* What has been found and asked for. */
	size_t count;
	size_t next;
	struct vfe_item items[VFE_HAUL_CHUNKS + 1];
	uint64_t masks[VFE_HAUL_CHUNKS];
	uint64_t all[VFE_HAUL_LINES];
	uint64_t edge[VFE_CHUNK_LINES];
};

/**
 * Start taking pages [first, end). Precondition: first < end. `out`, of which
 * page p will be merged into bit shift_to + p, may be NULL; it is only
 * prefetched.
 */
void vfe_haul_init(struct vfe_haul *haul, struct vfe_bitmap *bitmap,
		   uint64_t first, uint64_t end, const char *out,
		   int64_t shift_to);

/** Take what comes next, in ascending order. */
enum vfe_yield vfe_haul_next(struct vfe_haul *haul);

/** When all is taken. */
void vfe_haul_deinit(struct vfe_haul *haul);

/**
 * Take bits [lo, hi) of a chunk into 512 words; zeros elsewhere. If the chunk
 * is not `whole`, what is outside and whatever summary it needs stays.
 */
void vfe_take_words(struct vfe_bitmap *bitmap, uint64_t chunk, bool windows,
		    bool whole, uint64_t lo, uint64_t hi, uint64_t *words);

#endif
