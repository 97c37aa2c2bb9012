/* SPDX-License-Identifier: MIT */
/**
 * @file path_link.c
 * Overridden libc functions: those that tell what a path leads to, and those
 * that change or tell the working directory. None of them tells where the
 * tree is.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"

/* --- links: those of the tree are relative, as the kernel's --- */

static ssize_t read_link(int dirfd, const char *path, char *out, size_t size)
{
	return vfe_result(vfe_sys4(SYS_readlinkat, dirfd, path, out, size));
}

static __attribute__((noinline)) bool
moved_link(int dirfd, const char *path, char *out, size_t size, ssize_t *result)
{
	struct vfe_place place;

	if (!vfe_moved(dirfd, path, &place))
		return false;
	*result = read_link(AT_FDCWD, place.real, out, size);
	return true;
}

#define READLINK(name, arguments, dirfd, room, hand_on)                    \
	VFE_EXPORT ssize_t name arguments                                  \
	{                                                                  \
		ssize_t result;                                            \
                                                                           \
		if (size <= (room) && vfe_concerns(dirfd, path) &&         \
		    moved_link(dirfd, path, out, size, &result))           \
			return result;                                     \
		return vfe.next.name                                       \
			       ? vfe.next.name hand_on                     \
			       : read_link(dirfd, path, out,               \
					   size < (room) ? size : (room)); \
	}

READLINK(readlink, (const char *path, char *out, size_t size), AT_FDCWD,
	 SIZE_MAX, (path, out, size))
READLINK(readlinkat, (int dirfd, const char *path, char *out, size_t size),
	 dirfd, SIZE_MAX, (dirfd, path, out, size))
/* What fortified programs call: `room` is how much is behind `out`. */
READLINK(__readlink_chk,
	 (const char *path, char *out, size_t size, size_t room), AT_FDCWD,
	 room, (path, out, size, room))
READLINK(__readlinkat_chk,
	 (int dirfd, const char *path, char *out, size_t size, size_t room),
	 dirfd, room, (dirfd, path, out, size, room))

/* --- realpath() --- */

static char *not_there(void)
{
	errno = ENOSYS;
	return NULL;
}

static char *stripped(char *result)
{
	vfe_path_strip(result);
	return result;
}

static char *real_path(const char *path, char *resolved)
{
	struct vfe_place place;

	if (vfe_moved(AT_FDCWD, path, &place))
		path = place.real;
	return vfe.next.realpath ? stripped(vfe.next.realpath(path, resolved))
				 : not_there();
}

VFE_EXPORT char *realpath(const char *restrict path, char *restrict resolved)
{
	return real_path(path, resolved);
}

VFE_EXPORT char *__realpath_chk(const char *restrict path,
				char *restrict resolved, size_t room)
{
	struct vfe_place place;

	if (vfe_moved(AT_FDCWD, path, &place))
		path = place.real;
	return vfe.next.__realpath_chk
		       ? stripped(vfe.next.__realpath_chk(path, resolved, room))
		       : not_there();
}

VFE_EXPORT char *canonicalize_file_name(const char *path)
{
	return real_path(path, NULL);
}

/* --- the working directory --- */

VFE_EXPORT int chdir(const char *path)
{
	struct vfe_place place;

	if (vfe_moved(AT_FDCWD, path, &place))
		path = place.real;
	vfe_path_moved();
	int result = VFE_NEXT(chdir, SYS_chdir, path);

	vfe_path_moved(); /* another thread may have looked in between */
	return result;
}

VFE_EXPORT int fchdir(int fd)
{
	int result = VFE_NEXT(fchdir, SYS_fchdir, fd);

	vfe_path_moved();
	return result;
}

static char *working_directory(char *out, size_t size)
{
	if (!vfe_init() || !vfe.active)
		return vfe.next.getcwd ? vfe.next.getcwd(out, size)
				       : not_there();
	char name[VFE_PATH_MAX];

	/* It may fit although the tree's own name would not. */
	if (size && vfe_sys2(SYS_getcwd, name, sizeof(name)) > 0 &&
	    vfe_path_virtual(name)) {
		const char *path = vfe_path_virtual(name);

		if (strlen(path) >= size) {
			errno = ERANGE;
			return NULL;
		}
		if (!out)
			out = malloc(size);
		if (!out ||
		    vfe_result(vfe_copy_out(out, path, strlen(path) + 1)))
			return NULL;
		return out;
	}
	return vfe.next.getcwd ? stripped(vfe.next.getcwd(out, size))
			       : not_there();
}

VFE_EXPORT char *getcwd(char *out, size_t size)
{
	return working_directory(out, size);
}

VFE_EXPORT char *__getcwd_chk(char *out, size_t size, size_t room)
{
	if (size <= room)
		return working_directory(out, size);
	return vfe.next.__getcwd_chk ? vfe.next.__getcwd_chk(out, size, room)
				     : not_there();
}

VFE_EXPORT char *get_current_dir_name(void)
{
	vfe_init();
	return vfe.next.get_current_dir_name
		       ? stripped(vfe.next.get_current_dir_name())
		       : not_there();
}
