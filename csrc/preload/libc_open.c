/* SPDX-License-Identifier: MIT */
/**
 * @file libc_open.c
 * Overridden libc functions: those that open files by name.
 */
#include <stdarg.h>

#include "path.h"
#include "sys.h"

/** What is to be opened, and how. */
struct opening {
	int dirfd;
	const char *path;
	int flags;
	char out[VFE_PATH_MAX];
};

/* True if it is a node: its new fd, or -1, in `*fd`. Otherwise the call goes
 * on with what is now in `opening`. */
static bool is_node(struct opening *opening, int *fd)
{
	enum vfe_path what;

	if (!vfe_init() || !vfe.active || !opening->path)
		return false;
	what = vfe_path_find(opening->dirfd, opening->path, opening->out);
	/* Not the device, but its place among the files. */
	if (what == VFE_PATH_NODE && opening->flags & O_PATH)
		what = vfe_path_stand_in(opening->out) ? VFE_PATH_TREE
						       : VFE_PATH_OTHER;
	switch (what) {
	case VFE_PATH_NODE:
		vfe_debug(VFE_DEBUG_PATH, "open %s", opening->out);
		*fd = vfe_open(opening->out, opening->flags);
		return true;
	case VFE_PATH_TREE:
		vfe_debug(VFE_DEBUG_PATH, "open %s: %s", opening->path,
			  opening->out);
		opening->dirfd = AT_FDCWD;
		opening->path = opening->out;
		opening->flags = vfe_path_flags(opening->out, opening->flags);
		if (opening->flags >= 0)
			return false;
		*fd = (int)vfe_result(opening->flags);
		return true;
	default:
		return false;
	}
}

static int by_system_call(const struct opening *opening, mode_t mode)
{
	return (int)vfe_result(vfe_sys4(SYS_openat, opening->dirfd,
					opening->path, opening->flags, mode));
}

/* The mode is taken even where none was given; then it does not matter. */
#define OPEN(name, arguments, dirfd_, path_, flags_, last, hand_on)    \
	VFE_EXPORT int name arguments                                  \
	{                                                              \
		struct opening opening;                                \
		va_list args;                                          \
		mode_t mode;                                           \
		int fd;                                                \
                                                                       \
		va_start(args, last);                                  \
		mode = va_arg(args, mode_t);                           \
		va_end(args);                                          \
		opening.dirfd = dirfd_;                                \
		opening.path = path_;                                  \
		opening.flags = flags_;                                \
		if (is_node(&opening, &fd))                            \
			return fd;                                     \
		return vfe.next.name ? vfe.next.name hand_on           \
				     : by_system_call(&opening, mode); \
	}

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path, flags, flags,
     (opening.path, opening.flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path, flags, flags,
     (opening.path, opening.flags, mode))
OPEN(openat, (int dirfd, const char *path, int flags, ...), dirfd, path, flags,
     flags, (opening.dirfd, opening.path, opening.flags, mode))
OPEN(openat64, (int dirfd, const char *path, int flags, ...), dirfd, path,
     flags, flags, (opening.dirfd, opening.path, opening.flags, mode))

/* Fortified programs call these when no mode is given. */
#define OPEN_2(name, arguments, dirfd_, hand_on)                    \
	VFE_EXPORT int name arguments                               \
	{                                                           \
		struct opening opening;                             \
		int fd;                                             \
                                                                    \
		opening.dirfd = dirfd_;                             \
		opening.path = path;                                \
		opening.flags = flags;                              \
		if (is_node(&opening, &fd))                         \
			return fd;                                  \
		return vfe.next.name ? vfe.next.name hand_on        \
				     : by_system_call(&opening, 0); \
	}

OPEN_2(__open_2, (const char *path, int flags), AT_FDCWD,
       (opening.path, opening.flags))
OPEN_2(__open64_2, (const char *path, int flags), AT_FDCWD,
       (opening.path, opening.flags))
OPEN_2(__openat_2, (int dirfd, const char *path, int flags), dirfd,
       (opening.dirfd, opening.path, opening.flags))
OPEN_2(__openat64_2, (int dirfd, const char *path, int flags), dirfd,
       (opening.dirfd, opening.path, opening.flags))

#define CREAT(name)                                                      \
	VFE_EXPORT int name(const char *path, mode_t mode)               \
	{                                                                \
		struct opening opening;                                  \
		int fd;                                                  \
                                                                         \
		opening.dirfd = AT_FDCWD;                                \
		opening.path = path;                                     \
		opening.flags = O_CREAT | O_WRONLY | O_TRUNC;            \
		if (is_node(&opening, &fd))                              \
			return fd;                                       \
		return vfe.next.name ? vfe.next.name(opening.path, mode) \
				     : by_system_call(&opening, mode);   \
	}

CREAT(creat)
CREAT(creat64)

VFE_ALIAS(__open, open);
VFE_ALIAS(__open64, open64);
