/* SPDX-License-Identifier: MIT */
/**
 * @file libc_stat.c
 * Overridden libc functions: fstat and its older spellings. Those that take a
 * path are in path*.c.
 */
#include "path.h"
#include "sys.h"

/* struct stat64 is the same on 64-bit machines. */
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one struct stat");

/* A file of the tree shows what it stands for. */
static int dressed(int fd, void *status, int result)
{
	if (!result && vfp.root_size)
		vfp_path_dress_fd(fd, status);
	return result;
}

#define FSTAT(name, arguments, hand_on)                            \
	VFP_EXPORT int name arguments                              \
	{                                                          \
		struct vfp_file file;                              \
                                                                   \
		if (vfp_emulated(fd, &file))                       \
			return vfp_fstat(&file, status);           \
		if (VFP_RARE(!vfp.next.name))                      \
			return (int)vfp_result(                    \
				vfp_sys2(SYS_fstat, fd, status));  \
		return dressed(fd, status, vfp.next.name hand_on); \
	}

FSTAT(fstat, (int fd, struct stat *status), (fd, status))
FSTAT(fstat64, (int fd, struct stat64 *status), (fd, status))
FSTAT(__fxstat, (int version, int fd, struct stat *status),
      (version, fd, status))
FSTAT(__fxstat64, (int version, int fd, struct stat64 *status),
      (version, fd, status))
