/* SPDX-License-Identifier: MIT */
/**
 * @file own.h
 * The library's own fds, which the program does not see: its connections, and
 * the references that mappings hold (holds.h).
 *
 * They are known to all of the process, and to a child of it: it inherits this
 * table with the fds, whatever memory a fork wipes.
 */
#ifndef VFP_OWN_H
#define VFP_OWN_H

#include "preload.h"

/** A fd of ours. A number may come to mean another socket: the cookie says
 * which one it was. */
struct vfp_known {
	atomic_int number; /* fd + 1; 0: there is none */
	_Atomic uint64_t cookie;
};

#define VFP_CONNECTIONS 64
#define VFP_HOLDS	256 /* files that are mapped at a time */

VFP_HIDDEN extern struct vfp_known vfp_own_connections[VFP_CONNECTIONS];
VFP_HIDDEN extern struct vfp_known vfp_own_service;
VFP_HIDDEN extern struct vfp_known vfp_own_holds[VFP_HOLDS];

/** From now on it is `fd`. */
VFP_HIDDEN void vfp_own(struct vfp_known *known, int fd, uint64_t cookie);
/** Which number it has, if it is there, and in the fd table of this thread; or
 * -1. */
VFP_HIDDEN int vfp_own_number(const struct vfp_known *known);
/** What tells a socket from all others, for good. */
VFP_HIDDEN uint64_t vfp_cookie(int fd);
/** Whether `fd` is still that socket. */
VFP_HIDDEN bool vfp_still_there(int fd, uint64_t cookie);

/** A copy of an fd out of the way of programs that count on small numbers or
 * close many of them; close-on-exec. */
VFP_HIDDEN int vfp_high_copy(int fd);

/** Whether an fd is one of ours that is there. */
VFP_HIDDEN bool vfp_own_is(int fd);
/** The lowest number from `first` on of an fd of ours, or UINT64_MAX. */
VFP_HIDDEN uint64_t vfp_own_next(uint64_t first);

/** The same as vfp_own_is(), in a few instructions for all others. */
static inline bool vfp_is_internal(int fd)
{
	return (unsigned int)fd < VFP_FDS &&
	       VFP_RARE(atomic_load_explicit(&vfp_fds[fd],
					     memory_order_relaxed) &
			VFP_INTERNAL) &&
	       vfp_own_is(fd);
}

#endif
