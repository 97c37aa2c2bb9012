/* SPDX-License-Identifier: MIT */
/**
 * @file fds.h
 * What is known of fds that only a few need to know.
 */
#ifndef VFP_FDS_H
#define VFP_FDS_H

#include <errno.h>

#include "preload.h"

/** Why no call can be made on an fd that is for sockets: a negative errno, or 0
 * if it may be one to the program. */
static inline int vfp_no_socket(int fd)
{
	struct vfp_file file;

	if (!vfp_emulated(fd, &file))
		return 0;
	return file.kind == VFP_OTHER ? -EBADF : -ENOTSOCK;
}

/** Remember of no fd that it is not emulated; out of line. */
VFP_HIDDEN void vfp_fds_forget(void);
/** Some thread has an fd table of its own from now on. */
static inline void vfp_fds_unshared(void)
{
	if (vfp_init() && vfp.active)
		vfp_fds_forget();
}

#endif
