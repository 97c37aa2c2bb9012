/* SPDX-License-Identifier: MIT */
/**
 * @file path_statfs.c
 * Overridden libc functions: statfs(), statvfs() and their kin. Libraries ask
 * them whether /sys is sysfs (systemd's sd-device refuses what is not).
 */
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "path.h"
#include "sys.h"

#define ST_VALID 0x20 /* f_flags are there: the kernel's, not libc's */

_Static_assert(sizeof(struct statfs) == sizeof(struct statfs64), "LP64");
_Static_assert(sizeof(struct statvfs) == sizeof(struct statvfs64), "LP64");

/* simple_statfs() */
static void simple(struct statfs *status, long type)
{
	*status = (struct statfs){
		.f_type = type,
		.f_bsize = 4096,
		.f_frsize = 4096,
		.f_namelen = 255,
		.f_flags = ST_VALID | ST_NOSUID | ST_NODEV | ST_NOEXEC |
			   ST_RELATIME,
	};
}

/* The system's own file system of that name. */
static void real_one(const char *name, struct statfs *status, long type)
{
	if (vfp_sys2(SYS_statfs, name, status) || status->f_type != type)
		simple(status, type);
}

/* The file system of a path of the tree: 0 or a negative errno. */
static int of_path(const char *real, struct statfs *status)
{
	const char *path = vfp_path_virtual(real);
	long error = vfp_sys2(SYS_statfs, real, status);

	if (error || !path)
		return (int)error;
	if (path[1] == 'd')
		real_one("/dev", status, TMPFS_MAGIC);
	else
		real_one("/sys", status, SYSFS_MAGIC);
	return 0;
}

static bool of_fd(int fd, struct statfs *status, int *error)
{
	struct vfp_file file;
	VFP_PLACE(place);

	*error = 0;
	if (vfp_path_behind_fd(fd, &place)) {
		*error = of_path(place->real, status);
		return true;
	}
	if (!vfp_emulated(fd, &file) || file.kind == VFP_ATTRIBUTE)
		return false;
	if (file.kind == VFP_CONTAINER || file.kind == VFP_GROUP)
		real_one("/dev", status, TMPFS_MAGIC);
	else
		simple(status, ANON_INODE_FS_MAGIC);
	return true;
}

/* --- statfs() --- */

static int told(int error, const struct statfs *status, void *out)
{
	if (!error)
		error = vfp_copy_out(out, status, sizeof(*status));
	return (int)vfp_result(error);
}

#define STATFS(name, type)                                                  \
	VFP_EXPORT int name(const char *path, struct type *out)             \
	{                                                                   \
		VFP_PLACE(place);                                           \
		struct statfs status;                                       \
                                                                            \
		if (vfp_moved(AT_FDCWD, path, &place))                      \
			return told(of_path(place->real, &status), &status, \
				    out);                                   \
		return VFP_NEXT(name, SYS_statfs, path, out);               \
	}

STATFS(statfs, statfs)
STATFS(statfs64, statfs64)

#define FSTATFS(name, type)                                  \
	VFP_EXPORT int name(int fd, struct type *out)        \
	{                                                    \
		struct statfs status;                        \
		int error;                                   \
                                                             \
		if (of_fd(fd, &status, &error))              \
			return told(error, &status, out);    \
		return VFP_NEXT(name, SYS_fstatfs, fd, out); \
	}

FSTATFS(fstatfs, statfs)
FSTATFS(fstatfs64, statfs64)

/* --- statvfs(): the same in other words --- */

static int told_as_vfs(int error, const struct statfs *status, void *out)
{
	struct statvfs result = { 0 };

	if (error)
		return (int)vfp_result(error);
	result.f_bsize = (unsigned long)status->f_bsize;
	result.f_frsize = (unsigned long)(status->f_frsize ? status->f_frsize
							   : status->f_bsize);
	result.f_blocks = status->f_blocks;
	result.f_bfree = status->f_bfree;
	result.f_bavail = status->f_bavail;
	result.f_files = status->f_files;
	result.f_ffree = result.f_favail = status->f_ffree;
	result.f_fsid = (unsigned int)status->f_fsid.__val[0] |
			(unsigned long)(unsigned int)status->f_fsid.__val[1]
				<< 32;
	result.f_flag = (unsigned long)(status->f_flags & ~ST_VALID);
	result.f_namemax = (unsigned long)status->f_namelen;
	return (int)vfp_result(vfp_copy_out(out, &result, sizeof(result)));
}

#define STATVFS(name, type)                                               \
	VFP_EXPORT int name(const char *restrict path,                    \
			    struct type *restrict out)                    \
	{                                                                 \
		VFP_PLACE(place);                                         \
		struct statfs status;                                     \
		int error;                                                \
                                                                          \
		if (vfp_moved(AT_FDCWD, path, &place))                    \
			error = of_path(place->real, &status);            \
		else if (vfp.next.name)                                   \
			return vfp.next.name(path, out);                  \
		else                                                      \
			error = (int)vfp_sys2(SYS_statfs, path, &status); \
		return told_as_vfs(error, &status, out);                  \
	}

STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)

#define FSTATVFS(name, type)                                             \
	VFP_EXPORT int name(int fd, struct type *out)                    \
	{                                                                \
		struct statfs status;                                    \
		int error;                                               \
                                                                         \
		if (!of_fd(fd, &status, &error)) {                       \
			if (vfp.next.name)                               \
				return vfp.next.name(fd, out);           \
			error = (int)vfp_sys2(SYS_fstatfs, fd, &status); \
		}                                                        \
		return told_as_vfs(error, &status, out);                 \
	}

FSTATVFS(fstatvfs, statvfs)
FSTATVFS(fstatvfs64, statvfs64)
