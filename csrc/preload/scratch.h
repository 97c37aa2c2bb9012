/* SPDX-License-Identifier: MIT */
/**
 * @file scratch.h
 * Room for names that is not on the caller's stack: a thread has 16 KiB of it
 * at least, and a signal handler 2.
 */
#ifndef VFP_PRELOAD_SCRATCH_H
#define VFP_PRELOAD_SCRATCH_H

#include "preload.h"

/** What there is in one piece. */
#define VFP_SCRATCH_SIZE (3 * VFP_PATH_MAX + 64)

/** A piece; NULL if the system has no memory left. Signal-safe. */
VFP_HIDDEN void *vfp_scratch_take(void);
/** Give it back. NULL is none. */
VFP_HIDDEN void vfp_scratch_drop(void *piece);

#endif
