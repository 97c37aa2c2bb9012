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
	VFE_EXPORT ssize_t name(const char *path, const char *key,     \
				void *value, size_t size)              \
	{                                                              \
		VFE_PLACE(place);                                      \
                                                                       \
		if (vfe_moved(AT_FDCWD, path, &place))                 \
			path = place->real;                            \
		return VFE_NEXT(name, number, path, key, value, size); \
	}

GETXATTR(getxattr, SYS_getxattr)
GETXATTR(lgetxattr, SYS_lgetxattr)

#define LISTXATTR(name, number)                                            \
	VFE_EXPORT ssize_t name(const char *path, char *list, size_t size) \
	{                                                                  \
		VFE_PLACE(place);                                          \
                                                                           \
		if (vfe_moved(AT_FDCWD, path, &place))                     \
			path = place->real;                                \
		return VFE_NEXT(name, number, path, list, size);           \
	}

LISTXATTR(listxattr, SYS_listxattr)
LISTXATTR(llistxattr, SYS_llistxattr)

/* --- nobody can set any: kernfs has none for users, nodes neither --- */

static int refuse_change(const char *key)
{
	char word[5];

	if (vfe_copy_in(word, key, sizeof(word)))
		return (int)vfe_result(-EFAULT);
	if (!memcmp(word, "user.", sizeof(word)))
		return (int)vfe_result(-EOPNOTSUPP);
	return (int)vfe_result(vfe_path_is_master() ? -EOPNOTSUPP : -EPERM);
}

#define SETXATTR(name, number)                                                \
	VFE_EXPORT int name(const char *path, const char *key,                \
			    const void *value, size_t size, int flags)        \
	{                                                                     \
		VFE_PLACE(place);                                             \
                                                                              \
		if (vfe_moved(AT_FDCWD, path, &place)) {                      \
			if (vfe_path_virtual(place->real))                    \
				return refuse_change(key);                    \
			path = place->real;                                   \
		}                                                             \
		return VFE_NEXT(name, number, path, key, value, size, flags); \
	}

SETXATTR(setxattr, SYS_setxattr)
SETXATTR(lsetxattr, SYS_lsetxattr)

#define REMOVEXATTR(name, number)                              \
	VFE_EXPORT int name(const char *path, const char *key) \
	{                                                      \
		VFE_PLACE(place);                              \
                                                               \
		if (vfe_moved(AT_FDCWD, path, &place)) {       \
			if (vfe_path_virtual(place->real))     \
				return refuse_change(key);     \
			path = place->real;                    \
		}                                              \
		return VFE_NEXT(name, number, path, key);      \
	}

REMOVEXATTR(removexattr, SYS_removexattr)
REMOVEXATTR(lremovexattr, SYS_lremovexattr)

VFE_EXPORT int fsetxattr(int fd, const char *key, const void *value,
			 size_t size, int flags)
{
	VFE_PLACE(place);

	if (vfe_path_behind_fd(fd, &place))
		return refuse_change(key);
	return VFE_NEXT(fsetxattr, SYS_fsetxattr, fd, key, value, size, flags);
}

VFE_EXPORT int fremovexattr(int fd, const char *key)
{
	VFE_PLACE(place);

	if (vfe_path_behind_fd(fd, &place))
		return refuse_change(key);
	return VFE_NEXT(fremovexattr, SYS_fremovexattr, fd, key);
}
