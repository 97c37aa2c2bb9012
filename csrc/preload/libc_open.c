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
	return (int)vfp_result(vfp_sys4(SYS_openat, dirfd, path, flags, mode));
}

/* Open what a path of ours stands for: a new fd or -1 in `*fd`. */
static bool open_place(char *out, int dirfd, const char *path, int flags,
		       mode_t mode, int *fd)
{
	enum vfp_path what = vfp_path_resolve(dirfd, path, out);

	if (what == VFP_PATH_OTHER && !(flags & O_NOFOLLOW) &&
	    vfp_path_reopens(path, out))
		what = VFP_PATH_NODE;
	bool as_file = flags & O_PATH || (flags & O_DIRECTORY && vfp.root_size);

	if (what == VFP_PATH_NODE && !as_file) {
		vfp_debug(VFP_DEBUG_PATH, "open %s", out);
		*fd = vfp_open(out, flags);
		return true;
	}
	/* Not the device, but its place among the files; or there is none. */
	if (what == VFP_PATH_OTHER ||
	    (what == VFP_PATH_NODE && !vfp_path_stand_in(out)))
		return false;
	vfp_debug(VFP_DEBUG_PATH, "open %s: %s", path, out);
	flags = vfp_path_flags(out, flags);
	*fd = flags < 0 ? (int)vfp_result(flags)
			: by_system_call(AT_FDCWD, out, flags, mode);
	if (*fd >= 0)
		vfp_attribute_opened(*fd, out);
	return true;
}

static __attribute__((noinline)) bool open_ours(int dirfd, const char *path,
						int flags, mode_t mode, int *fd)
{
	char *out = vfp_scratch_take();
	bool ours = out && open_place(out, dirfd, path, flags, mode, fd);

	vfp_scratch_drop(out);
	return ours;
}

/* The mode is taken even where none was given; then it does not matter. */
#define OPEN(name, arguments, dirfd, last, hand_on)                        \
	VFP_EXPORT int name arguments                                      \
	{                                                                  \
		va_list args;                                              \
		mode_t mode;                                               \
		int fd;                                                    \
                                                                           \
		va_start(args, last);                                      \
		mode = va_arg(args, mode_t);                               \
		va_end(args);                                              \
		if (vfp_concerns(dirfd, path) &&                           \
		    open_ours(dirfd, path, flags, mode, &fd))              \
			return fd;                                         \
		return vfp.next.name                                       \
			       ? vfp.next.name hand_on                     \
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
	VFP_EXPORT int name arguments                                         \
	{                                                                     \
		int fd;                                                       \
                                                                              \
		if (vfp_concerns(dirfd, path) &&                              \
		    open_ours(dirfd, path, flags, 0, &fd))                    \
			return fd;                                            \
		return vfp.next.name ? vfp.next.name hand_on                  \
				     : by_system_call(dirfd, path, flags, 0); \
	}

OPEN_2(__open_2, (const char *path, int flags), AT_FDCWD, (path, flags))
OPEN_2(__open64_2, (const char *path, int flags), AT_FDCWD, (path, flags))
OPEN_2(__openat_2, (int dirfd, const char *path, int flags), dirfd,
       (dirfd, path, flags))
OPEN_2(__openat64_2, (int dirfd, const char *path, int flags), dirfd,
       (dirfd, path, flags))

#define CREAT(name)                                                           \
	VFP_EXPORT int name(const char *path, mode_t mode)                    \
	{                                                                     \
		int flags = O_CREAT | O_WRONLY | O_TRUNC;                     \
		int fd;                                                       \
                                                                              \
		if (vfp_concerns(AT_FDCWD, path) &&                           \
		    open_ours(AT_FDCWD, path, flags, mode, &fd))              \
			return fd;                                            \
		return vfp.next.name                                          \
			       ? vfp.next.name(path, mode)                    \
			       : by_system_call(AT_FDCWD, path, flags, mode); \
	}

CREAT(creat)
CREAT(creat64)

VFP_ALIAS(__open, open);
VFP_ALIAS(__open64, open64);
