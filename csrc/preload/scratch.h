/* SPDX-License-Identifier: MIT */
/**
 * @file scratch.h
 * Room for names that is not on the caller's stack: a thread has 16 KiB of it
 * at least, and a signal handler 2.
 */
#ifndef VFE_PRELOAD_SCRATCH_H
#define VFE_PRELOAD_SCRATCH_H

#include "preload.h"

/** What there is in one piece. */
#define VFE_SCRATCH_SIZE (3 * VFE_PATH_MAX + 64)

/** A piece; NULL if the system has no memory left. Signal-safe. */
VFE_HIDDEN void *vfe_scratch_take(void);
/** Give it back. NULL is none. */
VFE_HIDDEN void vfe_scratch_drop(void *piece);

#endif
