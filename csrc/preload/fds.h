/* SPDX-License-Identifier: MIT */
/**
 * @file fds.h
 * What is known of fds that only a few need to know.
 */
#ifndef VFE_FDS_H
#define VFE_FDS_H

#include <errno.h>

#include "preload.h"

/** Why no call can be made on an fd that is for sockets: a negative errno, or 0
 * if it may be one to the program. */
static inline int vfe_no_socket(int fd)
{
	struct vfe_file file;

	if (!vfe_emulated(fd, &file))
		return 0;
	return file.kind == VFE_OTHER ? -EBADF : -ENOTSOCK;
}

/** Remember of no fd that it is not emulated; out of line. */
VFE_HIDDEN void vfe_fds_forget(void);
/** Some thread has an fd table of its own from now on. */
static inline void vfe_fds_unshared(void)
{
	if (vfe_init() && vfe.active)
		vfe_fds_forget();
}

#endif
