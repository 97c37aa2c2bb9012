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

static int by_system_call(int dirfd, const char *path, void *status, int flags)
{
	return (int)vfp_result(
		vfp_sys4(SYS_newfstatat, dirfd, path, status, flags));
}

static __attribute__((noinline)) bool
moved_stat(int dirfd, const char *path, int flags, void *status, int *result)
{
	VFP_PLACE(place);
	struct stat found;

	if (!vfp_moved(dirfd, path, &place))
		return false;
	*result = by_system_call(AT_FDCWD, place->real, &found, flags);
	if (!*result) {
		vfp_path_dress(place->real, &found);
		*result = (int)vfp_result(
			vfp_copy_out(status, &found, sizeof(found)));
	}
	return true;
}

/* An fd of the tree, by the name "". */
static __attribute__((noinline)) bool empty_stat(int fd, const char *path,
						 void *status, int *result)
{
	struct stat filled;
	char first;

	if (vfp_copy_in(&first, path, 1) || first ||
	    vfp_sys2(SYS_fstat, fd, &filled) || !vfp_path_dress_fd(fd, &filled))
		return false;
	*result =
		(int)vfp_result(vfp_copy_out(status, &filled, sizeof(filled)));
	return true;
}

/* "/proc/self/fd/N", where that is followed. */
static __attribute__((noinline)) bool link_stat(const char *path, void *status,
						int *result)
{
	struct vfp_file file;
	struct stat filled;
	int fd = vfp_path_link_fd(path);

	if (fd < 0)
		return false;
	if (vfp_emulated(fd, &file)) {
		*result = vfp_fstat(&file, status);
		return true;
	}
	if (vfp_sys2(SYS_fstat, fd, &filled) || !vfp_path_dress_fd(fd, &filled))
		return false;
	*result =
		(int)vfp_result(vfp_copy_out(status, &filled, sizeof(filled)));
	return true;
}

/* An emulated fd by the name "", or what a path of ours stands for. */
static bool is_ours(int dirfd, const char *path, int flags, void *status,
		    int *result)
{
	struct vfp_file file;

	if (flags & AT_EMPTY_PATH && vfp_path_is_empty(path) &&
	    vfp_emulated(dirfd, &file)) {
		*result = vfp_fstat(&file, status);
		return true;
	}
	if (VFP_RARE(flags & AT_EMPTY_PATH && path && vfp.root_size) &&
	    empty_stat(dirfd, path, status, result))
		return true;
	return vfp_concerns(dirfd, path) &&
	       (moved_stat(dirfd, path, flags, status, result) ||
		(!(flags & AT_SYMLINK_NOFOLLOW) &&
		 link_stat(path, status, result)));
}

int vfp_stat(const char *path, struct stat *status, int flags)
{
	int result;

	return is_ours(AT_FDCWD, path, flags, status, &result)
		       ? result
		       : by_system_call(AT_FDCWD, path, status, flags);
}

#define STAT(name, arguments, dirfd, flags, hand_on)                         \
	VFP_EXPORT int name arguments                                        \
	{                                                                    \
		int result;                                                  \
                                                                             \
		if (is_ours(dirfd, path, flags, status, &result))            \
			return result;                                       \
		return vfp.next.name                                         \
			       ? vfp.next.name hand_on                       \
			       : by_system_call(dirfd, path, status, flags); \
	}

STAT(stat, (const char *path, struct stat *status), AT_FDCWD, 0, (path, status))
STAT(stat64, (const char *path, struct stat64 *status), AT_FDCWD, 0,
     (path, status))
STAT(lstat, (const char *path, struct stat *status), AT_FDCWD,
     AT_SYMLINK_NOFOLLOW, (path, status))
STAT(lstat64, (const char *path, struct stat64 *status), AT_FDCWD,
     AT_SYMLINK_NOFOLLOW, (path, status))
STAT(fstatat, (int dirfd, const char *path, struct stat *status, int flags),
     dirfd, flags, (dirfd, path, status, flags))
STAT(fstatat64, (int dirfd, const char *path, struct stat64 *status, int flags),
     dirfd, flags, (dirfd, path, status, flags))

/* What programs call that were built before glibc 2.33. */
STAT(__xstat, (int version, const char *path, struct stat *status), AT_FDCWD, 0,
     (version, path, status))
STAT(__xstat64, (int version, const char *path, struct stat64 *status),
     AT_FDCWD, 0, (version, path, status))
STAT(__lxstat, (int version, const char *path, struct stat *status), AT_FDCWD,
     AT_SYMLINK_NOFOLLOW, (version, path, status))
STAT(__lxstat64, (int version, const char *path, struct stat64 *status),
     AT_FDCWD, AT_SYMLINK_NOFOLLOW, (version, path, status))
STAT(__fxstatat,
     (int version, int dirfd, const char *path, struct stat *status, int flags),
     dirfd, flags, (version, dirfd, path, status, flags))
STAT(__fxstatat64,
     (int version, int dirfd, const char *path, struct stat64 *status,
      int flags),
     dirfd, flags, (version, dirfd, path, status, flags))

/* --- statx() --- */

#define KNOWN_FLAGS                                              \
	(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | \
	 AT_STATX_SYNC_TYPE)

static struct statx_timestamp stamp(struct timespec time)
{
	return (struct statx_timestamp){ .tv_sec = time.tv_sec,
					 .tv_nsec = (uint32_t)time.tv_nsec };
}

static int fill_statx(struct statx *out, const struct stat *status)
{
	struct statx filled = {
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

	return (int)vfp_result(vfp_copy_out(out, &filled, sizeof(filled)));
}

VFP_EXPORT int statx(int dirfd, const char *path, int flags, unsigned int mask,
		     struct statx *out)
{
	bool valid = !(mask & STATX__RESERVED) && !(flags & ~KNOWN_FLAGS) &&
		     (flags & AT_STATX_SYNC_TYPE) != AT_STATX_SYNC_TYPE;
	int understood = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
	struct stat status;
	int result;

	if (valid &&
	    is_ours(dirfd, path, flags & understood, &status, &result)) {
		return result ? result : fill_statx(out, &status);
	}
	return VFP_NEXT(statx, SYS_statx, dirfd, path, flags, mask, out);
}

/* --- access() --- */

static int by_rights(int dirfd, const char *path, int mode, int flags)
{
	return (int)vfp_result(
		vfp_sys4(SYS_faccessat2, dirfd, path, mode, flags));
}

static __attribute__((noinline)) bool
moved_access(int dirfd, const char *path, int mode, int flags, int *result)
{
	VFP_PLACE(place);

	if (!vfp_moved(dirfd, path, &place))
		return false;
	*result = by_rights(AT_FDCWD, place->real, mode, flags);
	return true;
}

#define ACCESS(name, arguments, dirfd, flags, hand_on)                      \
	VFP_EXPORT int name arguments                                       \
	{                                                                   \
		int result;                                                 \
                                                                            \
		if (vfp_concerns(dirfd, path) &&                            \
		    moved_access(dirfd, path, mode, flags, &result))        \
			return result;                                      \
		return vfp.next.name ? vfp.next.name hand_on                \
				     : by_rights(dirfd, path, mode, flags); \
	}

ACCESS(access, (const char *path, int mode), AT_FDCWD, 0, (path, mode))
ACCESS(eaccess, (const char *path, int mode), AT_FDCWD, AT_EACCESS,
       (path, mode))
ACCESS(euidaccess, (const char *path, int mode), AT_FDCWD, AT_EACCESS,
       (path, mode))
ACCESS(faccessat, (int dirfd, const char *path, int mode, int flags), dirfd,
       flags, (dirfd, path, mode, flags))
