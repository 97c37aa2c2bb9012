/* SPDX-License-Identifier: MIT */
/**
 * @file path_xattr.c
 * Overridden libc functions: extended attributes, which ls looks at, and
 * which nobody can change in /sys and /dev/vfio.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"

#define GETXATTR(name, number)                                         \
	VFP_EXPORT ssize_t name(const char *path, const char *key,     \
				void *value, size_t size)              \
	{                                                              \
		VFP_PLACE(place);                                      \
                                                                       \
		if (vfp_moved(AT_FDCWD, path, &place))                 \
			path = place->real;                            \
		return VFP_NEXT(name, number, path, key, value, size); \
	}

GETXATTR(getxattr, SYS_getxattr)
GETXATTR(lgetxattr, SYS_lgetxattr)

#define LISTXATTR(name, number)                                            \
	VFP_EXPORT ssize_t name(const char *path, char *list, size_t size) \
	{                                                                  \
		VFP_PLACE(place);                                          \
                                                                           \
		if (vfp_moved(AT_FDCWD, path, &place))                     \
			path = place->real;                                \
		return VFP_NEXT(name, number, path, list, size);           \
	}

LISTXATTR(listxattr, SYS_listxattr)
LISTXATTR(llistxattr, SYS_llistxattr)

/* --- nobody can set any: kernfs has none for users, nodes neither --- */

static int refuse_change(const char *key)
{
	char word[5];

	if (vfp_copy_in(word, key, sizeof(word)))
		return (int)vfp_result(-EFAULT);
	if (!memcmp(word, "user.", sizeof(word)))
		return (int)vfp_result(-EOPNOTSUPP);
	return (int)vfp_result(vfp_path_is_master() ? -EOPNOTSUPP : -EPERM);
}

#define SETXATTR(name, number)                                                \
	VFP_EXPORT int name(const char *path, const char *key,                \
			    const void *value, size_t size, int flags)        \
	{                                                                     \
		VFP_PLACE(place);                                             \
                                                                              \
		if (vfp_moved(AT_FDCWD, path, &place)) {                      \
			if (vfp_path_virtual(place->real))                    \
				return refuse_change(key);                    \
			path = place->real;                                   \
		}                                                             \
		return VFP_NEXT(name, number, path, key, value, size, flags); \
	}

SETXATTR(setxattr, SYS_setxattr)
SETXATTR(lsetxattr, SYS_lsetxattr)

#define REMOVEXATTR(name, number)                              \
	VFP_EXPORT int name(const char *path, const char *key) \
	{                                                      \
		VFP_PLACE(place);                              \
                                                               \
		if (vfp_moved(AT_FDCWD, path, &place)) {       \
			if (vfp_path_virtual(place->real))     \
				return refuse_change(key);     \
			path = place->real;                    \
		}                                              \
		return VFP_NEXT(name, number, path, key);      \
	}

REMOVEXATTR(removexattr, SYS_removexattr)
REMOVEXATTR(lremovexattr, SYS_lremovexattr)

VFP_EXPORT int fsetxattr(int fd, const char *key, const void *value,
			 size_t size, int flags)
{
	VFP_PLACE(place);

	if (vfp_path_behind_fd(fd, &place))
		return refuse_change(key);
	return VFP_NEXT(fsetxattr, SYS_fsetxattr, fd, key, value, size, flags);
}

VFP_EXPORT int fremovexattr(int fd, const char *key)
{
	VFP_PLACE(place);

	if (vfp_path_behind_fd(fd, &place))
		return refuse_change(key);
	return VFP_NEXT(fremovexattr, SYS_fremovexattr, fd, key);
}
