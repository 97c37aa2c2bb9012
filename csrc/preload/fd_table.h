/* SPDX-License-Identifier: MIT */
/**
 * @file fd_table.h
 * Changes of what is remembered of an fd; preload.h has what hooks look at.
 */
#ifndef VFP_FD_TABLE_H
#define VFP_FD_TABLE_H

#include "preload.h"

/** A file that may be emulated has come to be at `fd`. */
VFP_HIDDEN void vfp_fd_appears(int fd);
/** One that is emulated has. */
VFP_HIDDEN void vfp_fd_is_ours(int fd);
/** One of the library's own has (own.h); it is until it is closed. */
VFP_HIDDEN void vfp_fd_internal(int fd);

#endif
