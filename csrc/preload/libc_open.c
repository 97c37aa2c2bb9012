/* SPDX-License-Identifier: MIT */
/**
 * @file libc_open.c
 * Overridden libc functions: those that open files by name.
 */
#include <stdarg.h>

#include "attribute.h"
#include "path.h"
#include "sys.h"

static int by_system_call(int dirfd, const char *path, int flags, mode_t mode)
{
	return (int)vfe_result(vfe_sys4(SYS_openat, dirfd, path, flags, mode));
}

/* Open what a path of ours stands for: a new fd or -1 in `*fd`. */
static bool open_place(char *out, int dirfd, const char *path, int flags,
		       mode_t mode, int *fd)
{
	enum vfe_path what = vfe_path_resolve(dirfd, path, out);

	if (what == VFE_PATH_OTHER && !(flags & O_NOFOLLOW) &&
	    vfe_path_reopens(path, out))
		what = VFE_PATH_NODE;
	bool as_file = flags & O_PATH || (flags & O_DIRECTORY && vfe.root_size);

	if (what == VFE_PATH_NODE && !as_file) {
		vfe_debug(VFE_DEBUG_PATH, "open %s", out);
		*fd = vfe_open(out, flags);
		return true;
	}
	/* Not the device, but its place among the files; or there is none. */
	if (what == VFE_PATH_OTHER ||
	    (what == VFE_PATH_NODE && !vfe_path_stand_in(out)))
		return false;
	vfe_debug(VFE_DEBUG_PATH, "open %s: %s", path, out);
	flags = vfe_path_flags(out, flags);
	*fd = flags < 0 ? (int)vfe_result(flags)
			: by_system_call(AT_FDCWD, out, flags, mode);
	if (*fd >= 0)
		vfe_attribute_opened(*fd, out);
	return true;
}

static __attribute__((noinline)) bool open_ours(int dirfd, const char *path,
						int flags, mode_t mode, int *fd)
{
	char *out = vfe_scratch_take();
	bool ours = out && open_place(out, dirfd, path, flags, mode, fd);

	vfe_scratch_drop(out);
	return ours;
}

/* The mode is taken even where none was given; then it does not matter. */
#define OPEN(name, arguments, dirfd, last, hand_on)                        \
	VFE_EXPORT int name arguments                                      \
	{                                                                  \
		va_list args;                                              \
		mode_t mode;                                               \
		int fd;                                                    \
                                                                           \
		va_start(args, last);                                      \
		mode = va_arg(args, mode_t);                               \
		va_end(args);                                              \
		if (vfe_concerns(dirfd, path) &&                           \
		    open_ours(dirfd, path, flags, mode, &fd))              \
			return fd;                                         \
		return vfe.next.name                                       \
			       ? vfe.next.name hand_on                     \
			       : by_system_call(dirfd, path, flags, mode); \
	}

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, flags,
     (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, flags,
     (path, flags, mode))
OPEN(openat, (int dirfd, const char *path, int flags, ...), dirfd, flags,
     (dirfd, path, flags, mode))
OPEN(openat64, (int dirfd, const char *path, int flags, ...), dirfd, flags,
     (dirfd, path, flags, mode))

/* Fortified programs call these when no mode is given. */
#define OPEN_2(name, arguments, dirfd, hand_on)                               \
	VFE_EXPORT int name arguments                                         \
	{                                                                     \
		int fd;                                                       \
                                                                              \
		if (vfe_concerns(dirfd, path) &&                              \
		    open_ours(dirfd, path, flags, 0, &fd))                    \
			return fd;                                            \
		return vfe.next.name ? vfe.next.name hand_on                  \
				     : by_system_call(dirfd, path, flags, 0); \
	}

OPEN_2(__open_2, (const char *path, int flags), AT_FDCWD, (path, flags))
OPEN_2(__open64_2, (const char *path, int flags), AT_FDCWD, (path, flags))
OPEN_2(__openat_2, (int dirfd, const char *path, int flags), dirfd,
       (dirfd, path, flags))
OPEN_2(__openat64_2, (int dirfd, const char *path, int flags), dirfd,
       (dirfd, path, flags))

#define CREAT(name)                                                           \
	VFE_EXPORT int name(const char *path, mode_t mode)                    \
	{                                                                     \
		int flags = O_CREAT | O_WRONLY | O_TRUNC;                     \
		int fd;                                                       \
                                                                              \
		if (vfe_concerns(AT_FDCWD, path) &&                           \
		    open_ours(AT_FDCWD, path, flags, mode, &fd))              \
			return fd;                                            \
		return vfe.next.name                                          \
			       ? vfe.next.name(path, mode)                    \
			       : by_system_call(AT_FDCWD, path, flags, mode); \
	}

CREAT(creat)
CREAT(creat64)

VFE_ALIAS(__open, open);
VFE_ALIAS(__open64, open64);
