/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The ledger of a device's writes into guest memory, which a verification
 * reads: which pages, how many writes, and the last of them one by one. It is
 * outside of the uAPI, and has nothing to do with dirty tracking.
 *
 * Not thread-safe, but for the bitmaps: the daemon's one thread notes and
 * reads.
 */
#ifndef VFE_LEDGER_H
#define VFE_LEDGER_H

#include "vfe_dma.h"
#include "vfe_log.h"

/** One write. */
struct vfe_written {
	uint64_t seq; /**< which of the device's, from 1 */
	uint64_t iova;
	uint64_t size;
	uint64_t when;	  /**< CLOCK_MONOTONIC, nanoseconds */
	uint64_t stopped; /**< 1: in a state in which it may not write */
};

struct vfe_ledger {
	const struct vfe_log *log;
	uint64_t writes;
	uint64_t stopped; /**< how many of them while it may not write */
	size_t room;	  /**< of the ring */
	struct vfe_written ring[];
};

/**
 * Make an empty ledger. `log` has the ranges and bitmaps of its pages, and
 * stays the caller's. Precondition: room > 0.
 * @return NULL without memory.
 */
struct vfe_ledger *vfe_ledger_create(const struct vfe_log *log, size_t room);
void vfe_ledger_destroy(struct vfe_ledger *ledger);

/**
 * Note a write of `size` bytes that has been made, in full or in part; what
 * would pass 2^64 ends there.
 */
void vfe_ledger_note(struct vfe_ledger *ledger, uint64_t iova, uint64_t size,
		     bool stopped);

/** Note the writes of a batch, all but those that were never tried. */
void vfe_ledger_note_batch(struct vfe_ledger *ledger,
			   const struct vfe_dma *batch, size_t count,
			   bool stopped);

/** Mark the pages of the writes of a batch that is about to be made. */
void vfe_ledger_mark_batch(struct vfe_ledger *ledger,
			   const struct vfe_dma *batch, size_t count);

/**
 * Copy the writes after `since`, oldest first, as far as the ring has them.
 * @return how many, at most `most`.
 */
size_t vfe_ledger_since(const struct vfe_ledger *ledger, uint64_t since,
			bool stopped_only, struct vfe_written *out,
			size_t most);

#endif
