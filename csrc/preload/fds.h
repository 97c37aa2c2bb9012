/* SPDX-License-Identifier: MIT */
/**
 * @file fds.h
 * What fds.c and packet.c know of fds that the rest need not.
 */
#ifndef VFE_FDS_H
#define VFE_FDS_H

#include <errno.h>

#include "preload.h"

/** An fd is one of our connections, until it is closed. */
VFE_HIDDEN void vfe_fd_internal(int fd);
/** Whether it is one still, and in the fd table of this thread (session.c). */
VFE_HIDDEN bool vfe_is_connection(int fd);
static inline bool vfe_is_internal(int fd)
{
	return (unsigned int)fd < VFE_FDS &&
	       VFE_RARE(atomic_load_explicit(&vfe_fds[fd],
					     memory_order_relaxed) &
			VFE_INTERNAL) &&
	       vfe_is_connection(fd);
}

/** Why no call can be made on an fd that is for sockets: a negative errno, or 0
 * if it may be one to the program. */
static inline int vfe_no_socket(int fd)
{
	struct vfe_file file;

	if (!vfe_emulated(fd, &file))
		return 0;
	return file.kind == VFE_OTHER ? -EBADF : -ENOTSOCK;
}

/** Some thread has an fd table of its own from now on: remember nothing. */
VFE_HIDDEN void vfe_fds_unshared(void);

/** Parse what a token's peer is bound to, without the leading NUL. */
VFE_HIDDEN bool vfe_parse_name(const char *name, struct vfe_file *file,
			       uint8_t id[16]);
/** Whether `fd` is still that socket. */
VFE_HIDDEN bool vfe_still_there(int fd, uint64_t cookie);

#endif
