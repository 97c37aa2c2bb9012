/* SPDX-License-Identifier: MIT */
/**
 * @file path_watch.c
 * Overridden libc functions: inotify, file handles and limits of names. They
 * are told of what stands for a path in the tree, which changes as it does.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>

#include "path.h"
#include "sys.h"

VFP_EXPORT int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		path = place->real;
	return VFP_NEXT(inotify_add_watch, SYS_inotify_add_watch, fd, path,
			mask);
}

VFP_EXPORT int name_to_handle_at(int dirfd, const char *path,
				 struct file_handle *handle, int *mount_id,
				 int flags)
{
	VFP_PLACE(place);

	if (vfp_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return VFP_NEXT(name_to_handle_at, SYS_name_to_handle_at, dirfd, path,
			handle, mount_id, flags);
}

VFP_EXPORT long pathconf(const char *path, int name)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		path = place->real;
	return vfp.next.pathconf ? vfp.next.pathconf(path, name)
				 : vfp_result(-ENOSYS);
}
