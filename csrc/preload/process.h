/* SPDX-License-Identifier: MIT */
/**
 * @file process.h
 * Which process this is, from fork to fork.
 *
 * What is about one process only lives in memory that a fork wipes
 * (MADV_WIPEONFORK): a child, in whatever way it was made, starts with zeroes.
 * A child of vfork() has our very memory, but another pid.
 */
#ifndef VFP_PROCESS_H
#define VFP_PROCESS_H

#include "preload.h"

/** Once: false if there is no memory. */
VFP_HIDDEN bool vfp_process_init(void);
/** Whether this process is the one whose memory this is (not after vfork()). */
VFP_HIDDEN bool vfp_process_is_ours(void);
/** In the child of fork(): whether its memory was copied, not wiped, so that
 * whoever has some must clear it. */
VFP_HIDDEN bool vfp_process_is_copied(void);
/** In the child of fork(), when that has been done. */
VFP_HIDDEN void vfp_process_forked(void);

/** Zeroes, and again in a child after a fork; NULL if there is no memory. */
VFP_HIDDEN void *vfp_wiped_memory(size_t size);

/** All signals of this thread, blocked for as long as it talks to the daemon:
 * a handler that made a call would find things half done. */
VFP_HIDDEN uint64_t vfp_signals_block(void);
VFP_HIDDEN void vfp_signals_restore(uint64_t mask);

#endif
