/* SPDX-License-Identifier: MIT */
/**
 * @file path_xattr.c
 * Overridden libc functions: extended attributes, which ls looks at.
 */
#include "path.h"
#include "sys.h"

#define GETXATTR(name, number)                                         \
	VFE_EXPORT ssize_t name(const char *path, const char *key,     \
				void *value, size_t size)              \
	{                                                              \
		struct vfe_place place;                                \
                                                                       \
		if (vfe_moved(AT_FDCWD, path, &place))                 \
			path = place.real;                             \
		return VFE_NEXT(name, number, path, key, value, size); \
	}

GETXATTR(getxattr, SYS_getxattr)
GETXATTR(lgetxattr, SYS_lgetxattr)

#define LISTXATTR(name, number)                                            \
	VFE_EXPORT ssize_t name(const char *path, char *list, size_t size) \
	{                                                                  \
		struct vfe_place place;                                    \
                                                                           \
		if (vfe_moved(AT_FDCWD, path, &place))                     \
			path = place.real;                                 \
		return VFE_NEXT(name, number, path, list, size);           \
	}

LISTXATTR(listxattr, SYS_listxattr)
LISTXATTR(llistxattr, SYS_llistxattr)
