/* SPDX-License-Identifier: MIT */
/**
 * @file path_stat.c
 * Overridden libc functions: stat(), access() and their kin.
 *
 * struct stat and struct stat64 are one and the same on the machines that
 * sys.h knows, and are what the kernel fills in.
 */
#include <sys/sysmacros.h>

#include "path.h"
#include "sys.h"

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "LP64");

/* An emulated fd by the name "". */
static bool by_fd(int dirfd, const char *path, int flags, struct stat *status)
{
	struct vfe_file file;

	if (!(flags & AT_EMPTY_PATH) || (path && *path) || !vfe_init() ||
	    !vfe.active || !vfe_emulated(dirfd, &file))
		return false;
	vfe_file_stat(&file, status);
	return true;
}

static int by_system_call(int dirfd, const char *path, struct stat *status,
			  int flags)
{
	return (int)vfe_result(
		vfe_sys4(SYS_newfstatat, dirfd, path, status, flags));
}

static int moved_stat(const struct vfe_place *place, struct stat *status,
		      int flags)
{
	int result = by_system_call(AT_FDCWD, place->real, status, flags);

	if (!result)
		vfe_path_dress(place->real, status);
	return result;
}

int vfe_stat(const char *path, struct stat *status, int flags)
{
	struct vfe_place place;

	if (vfe_moved(AT_FDCWD, path, &place))
		return moved_stat(&place, status, flags);
	return by_system_call(AT_FDCWD, path, status, flags);
}

#define STAT(name, type, flags)                                                \
	VFE_EXPORT int name(const char *path, struct type *status)             \
	{                                                                      \
		struct vfe_place place;                                        \
                                                                               \
		if (vfe_moved(AT_FDCWD, path, &place))                         \
			return moved_stat(&place, (struct stat *)status,       \
					  flags);                              \
		return vfe.next.name                                           \
			       ? vfe.next.name(path, status)                   \
			       : by_system_call(AT_FDCWD, path,                \
						(struct stat *)status, flags); \
	}

STAT(stat, stat, 0)
STAT(stat64, stat64, 0)
STAT(lstat, stat, AT_SYMLINK_NOFOLLOW)
STAT(lstat64, stat64, AT_SYMLINK_NOFOLLOW)

#define FSTATAT(name, type)                                                    \
	VFE_EXPORT int name(int dirfd, const char *path, struct type *status,  \
			    int flags)                                         \
	{                                                                      \
		struct vfe_place place;                                        \
                                                                               \
		if (by_fd(dirfd, path, flags, (struct stat *)status))          \
			return 0;                                              \
		if (vfe_moved(dirfd, path, &place))                            \
			return moved_stat(&place, (struct stat *)status,       \
					  flags);                              \
		return vfe.next.name                                           \
			       ? vfe.next.name(dirfd, path, status, flags)     \
			       : by_system_call(dirfd, path,                   \
						(struct stat *)status, flags); \
	}

FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

/* What programs call that were built before glibc 2.33. */
#define XSTAT(name, type, flags)                                               \
	VFE_EXPORT int name(int version, const char *path,                     \
			    struct type *status)                               \
	{                                                                      \
		struct vfe_place place;                                        \
                                                                               \
		if (vfe_moved(AT_FDCWD, path, &place))                         \
			return moved_stat(&place, (struct stat *)status,       \
					  flags);                              \
		return vfe.next.name                                           \
			       ? vfe.next.name(version, path, status)          \
			       : by_system_call(AT_FDCWD, path,                \
						(struct stat *)status, flags); \
	}

XSTAT(__xstat, stat, 0)
XSTAT(__xstat64, stat64, 0)
XSTAT(__lxstat, stat, AT_SYMLINK_NOFOLLOW)
XSTAT(__lxstat64, stat64, AT_SYMLINK_NOFOLLOW)

#define FXSTATAT(name, type)                                                   \
	VFE_EXPORT int name(int version, int dirfd, const char *path,          \
			    struct type *status, int flags)                    \
	{                                                                      \
		struct vfe_place place;                                        \
                                                                               \
		if (by_fd(dirfd, path, flags, (struct stat *)status))          \
			return 0;                                              \
		if (vfe_moved(dirfd, path, &place))                            \
			return moved_stat(&place, (struct stat *)status,       \
					  flags);                              \
		return vfe.next.name                                           \
			       ? vfe.next.name(version, dirfd, path, status,   \
					       flags)                          \
			       : by_system_call(dirfd, path,                   \
						(struct stat *)status, flags); \
	}

FXSTATAT(__fxstatat, stat)
FXSTATAT(__fxstatat64, stat64)

/* --- statx() --- */

static struct statx_timestamp stamp(struct timespec time)
{
	return (struct statx_timestamp){ .tv_sec = time.tv_sec,
					 .tv_nsec = (uint32_t)time.tv_nsec };
}

static void fill_statx(struct statx *out, const struct stat *status)
{
	*out = (struct statx){
		.stx_mask = STATX_BASIC_STATS,
		.stx_blksize = (uint32_t)status->st_blksize,
		.stx_nlink = (uint32_t)status->st_nlink,
		.stx_uid = status->st_uid,
		.stx_gid = status->st_gid,
		.stx_mode = (uint16_t)status->st_mode,
		.stx_ino = status->st_ino,
		.stx_size = (uint64_t)status->st_size,
		.stx_blocks = (uint64_t)status->st_blocks,
		.stx_atime = stamp(status->st_atim),
		.stx_ctime = stamp(status->st_ctim),
		.stx_mtime = stamp(status->st_mtim),
		.stx_rdev_major = major(status->st_rdev),
		.stx_rdev_minor = minor(status->st_rdev),
		.stx_dev_major = major(status->st_dev),
		.stx_dev_minor = minor(status->st_dev),
	};
}

VFE_EXPORT int statx(int dirfd, const char *path, int flags, unsigned int mask,
		     struct statx *out)
{
	struct vfe_place place;
	struct stat status;

	if (by_fd(dirfd, path, flags, &status)) {
		fill_statx(out, &status);
		return 0;
	}
	if (vfe_moved(dirfd, path, &place)) {
		int result = moved_stat(
			&place, &status,
			flags & (AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT));

		if (!result)
			fill_statx(out, &status);
		return result;
	}
	return VFE_NEXT(statx, SYS_statx, dirfd, path, flags, mask, out);
}

/* --- access() --- */

VFE_EXPORT int access(const char *path, int mode)
{
	struct vfe_place place;

	if (vfe_moved(AT_FDCWD, path, &place))
		path = place.real;
	return vfe.next.access ? vfe.next.access(path, mode)
			       : (int)vfe_result(vfe_sys3(
					 SYS_faccessat, AT_FDCWD, path, mode));
}

VFE_EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	struct vfe_place place;

	if (vfe_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place.real;
	}
	return vfe.next.faccessat ? vfe.next.faccessat(dirfd, path, mode, flags)
				  : (int)vfe_result(vfe_sys3(
					    SYS_faccessat, dirfd, path, mode));
}

#define EACCESS(name)                                                          \
	VFE_EXPORT int name(const char *path, int mode)                        \
	{                                                                      \
		struct vfe_place place;                                        \
                                                                               \
		if (vfe_moved(AT_FDCWD, path, &place))                         \
			path = place.real;                                     \
		return vfe.next.name ? vfe.next.name(path, mode)               \
				     : (int)vfe_result(vfe_sys3(SYS_faccessat, \
								AT_FDCWD,      \
								path, mode));  \
	}

EACCESS(eaccess)
EACCESS(euidaccess)
