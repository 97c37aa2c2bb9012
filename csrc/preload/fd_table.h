/* SPDX-License-Identifier: MIT */
/**
 * @file fd_table.h
 * Changes of what is remembered of an fd; preload.h has what hooks look at.
 */
#ifndef VFE_FD_TABLE_H
#define VFE_FD_TABLE_H

#include "preload.h"

/** A file that may be emulated has come to be at `fd`. */
VFE_HIDDEN void vfe_fd_appears(int fd);
/** One that is emulated has. */
VFE_HIDDEN void vfe_fd_is_ours(int fd);
/** One of the library's own has (own.h); it is until it is closed. */
VFE_HIDDEN void vfe_fd_internal(int fd);

#endif
