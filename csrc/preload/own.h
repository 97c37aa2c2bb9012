/* SPDX-License-Identifier: MIT */
/**
 * @file own.h
 * The library's own fds, which the program does not see: its connections, and
 * the references that mappings hold (holds.h).
 *
 * They are known to all of the process, and to a child of it: it inherits this
 * table with the fds, whatever memory a fork wipes.
 */
#ifndef VFE_OWN_H
#define VFE_OWN_H

#include "preload.h"

/** A fd of ours. A number may come to mean another socket: the cookie says
 * which one it was. */
struct vfe_known {
	atomic_int number; /* fd + 1; 0: there is none */
	_Atomic uint64_t cookie;
};

#define VFE_CONNECTIONS 64
#define VFE_HOLDS	256 /* files that are mapped at a time */

VFE_HIDDEN extern struct vfe_known vfe_own_connections[VFE_CONNECTIONS];
VFE_HIDDEN extern struct vfe_known vfe_own_service;
VFE_HIDDEN extern struct vfe_known vfe_own_holds[VFE_HOLDS];

/** From now on it is `fd`. */
VFE_HIDDEN void vfe_own(struct vfe_known *known, int fd, uint64_t cookie);
/** Which number it has, if it is there, and in the fd table of this thread; or
 * -1. */
VFE_HIDDEN int vfe_own_number(const struct vfe_known *known);
/** What tells a socket from all others, for good. */
VFE_HIDDEN uint64_t vfe_cookie(int fd);
/** Whether `fd` is still that socket. */
VFE_HIDDEN bool vfe_still_there(int fd, uint64_t cookie);

/** A copy of an fd out of the way of programs that count on small numbers or
 * close many of them; close-on-exec. */
VFE_HIDDEN int vfe_high_copy(int fd);

/** Whether an fd is one of ours that is there. */
VFE_HIDDEN bool vfe_own_is(int fd);
/** The lowest number from `first` on of an fd of ours, or UINT64_MAX. */
VFE_HIDDEN uint64_t vfe_own_next(uint64_t first);

/** The same as vfe_own_is(), in a few instructions for all others. */
static inline bool vfe_is_internal(int fd)
{
	return (unsigned int)fd < VFE_FDS &&
	       VFE_RARE(atomic_load_explicit(&vfe_fds[fd],
					     memory_order_relaxed) &
			VFE_INTERNAL) &&
	       vfe_own_is(fd);
}

#endif
