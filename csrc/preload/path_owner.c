/* SPDX-License-Identifier: MIT */
/**
 * @file path_owner.c
 * Overridden libc functions: those that change what stat() tells of a file:
 * its mode, owner and times. Whose daemon it is may do with nodes and with
 * sysfs what root may do on a real machine; the next stat() tells of it.
 */
#include <errno.h>
#include <sys/time.h>
#include <utime.h>

#include "attribute.h"
#include "path.h"
#include "sys.h"

/* --- modes --- */

/* The sticky bit is our own mark, and the daemon has to get into directories.
 */
static int change_mode(const char *real, mode_t mode, int flags)
{
	struct stat status;
	long error = vfp_sys4(SYS_newfstatat, AT_FDCWD, real, &status, flags);

	if (error)
		return (int)vfp_result(error);
	if (S_ISLNK(status.st_mode))
		return (int)vfp_result(-EOPNOTSUPP);
	if (vfp_path_virtual(real)) {
		mode_t ours = S_ISVTX | (vfp_is_live(&status) ? S_ISGID : 0);

		mode = (mode & ~ours) | (status.st_mode & ours);
		if (vfp_path_is_write_only(&status)) /* we read it */
			mode |= S_IRUSR;
		if (S_ISDIR(status.st_mode))
			mode |= S_IRWXU;
	}
	return (int)vfp_result(
		vfp_sys3(SYS_fchmodat, AT_FDCWD, real, mode & 07777));
}

VFP_EXPORT int chmod(const char *path, mode_t mode)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		return change_mode(place->real, mode, 0);
	return vfp.next.chmod ? vfp.next.chmod(path, mode)
			      : (int)vfp_result(vfp_sys3(SYS_fchmodat, AT_FDCWD,
							 path, mode));
}

VFP_EXPORT int lchmod(const char *path, mode_t mode)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		return change_mode(place->real, mode, AT_SYMLINK_NOFOLLOW);
	return vfp.next.lchmod ? vfp.next.lchmod(path, mode)
			       : (int)vfp_result(-ENOSYS);
}

VFP_EXPORT int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
{
	VFP_PLACE(place);

	if (!(flags & ~AT_SYMLINK_NOFOLLOW) && vfp_moved(dirfd, path, &place))
		return change_mode(place->real, mode, flags);
	return vfp.next.fchmodat ? vfp.next.fchmodat(dirfd, path, mode, flags)
				 : (int)vfp_result(vfp_sys3(SYS_fchmodat, dirfd,
							    path, mode));
}

VFP_EXPORT int fchmod(int fd, mode_t mode)
{
	VFP_PLACE(place);

	if (vfp_path_behind_fd(fd, &place))
		return change_mode(place->real, mode, 0);
	return VFP_NEXT(fchmod, SYS_fchmod, fd, mode);
}

/* --- owners --- */

static int give(const char *real, uid_t uid, gid_t gid, int flags)
{
	if (!vfp_path_virtual(real))
		return (int)vfp_result(vfp_sys5(SYS_fchownat, AT_FDCWD, real,
						uid, gid, flags));
	return (int)vfp_result(vfp_path_give(real, flags, uid, gid));
}

#define CHOWN(name, flags)                                                     \
	VFP_EXPORT int name(const char *path, uid_t uid, gid_t gid)            \
	{                                                                      \
		VFP_PLACE(place);                                              \
                                                                               \
		if (vfp_moved(AT_FDCWD, path, &place))                         \
			return give(place->real, uid, gid, flags);             \
		return vfp.next.name                                           \
			       ? vfp.next.name(path, uid, gid)                 \
			       : (int)vfp_result(vfp_sys5(SYS_fchownat,        \
							  AT_FDCWD, path, uid, \
							  gid, flags));        \
	}

CHOWN(chown, 0)
CHOWN(lchown, AT_SYMLINK_NOFOLLOW)

VFP_EXPORT int fchown(int fd, uid_t uid, gid_t gid)
{
	VFP_PLACE(place);

	if (vfp_path_behind_fd(fd, &place))
		return give(place->real, uid, gid, 0);
	return VFP_NEXT(fchown, SYS_fchown, fd, uid, gid);
}

VFP_EXPORT int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid,
			int flags)
{
	VFP_PLACE(place);

	if (vfp_moved(dirfd, path, &place))
		return give(place->real, uid, gid, flags & AT_SYMLINK_NOFOLLOW);
	if (flags & AT_EMPTY_PATH && vfp_path_behind_fd(dirfd, &place))
		return give(place->real, uid, gid, 0);
	return VFP_NEXT(fchownat, SYS_fchownat, dirfd, path, uid, gid, flags);
}

/* --- times: the files have them themselves --- */

static int not_there(void)
{
	return (int)vfp_result(-ENOSYS);
}

#define TIMES(name, type)                                         \
	VFP_EXPORT int name(const char *path, type)               \
	{                                                         \
		VFP_PLACE(place);                                 \
                                                                  \
		if (vfp_moved(AT_FDCWD, path, &place))            \
			path = place->real;                       \
		return vfp.next.name ? vfp.next.name(path, times) \
				     : not_there();               \
	}

TIMES(utime, const struct utimbuf *times)
TIMES(utimes, const struct timeval times[2])
TIMES(lutimes, const struct timeval times[2])

VFP_EXPORT int utimensat(int dirfd, const char *path,
			 const struct timespec times[2], int flags)
{
	VFP_PLACE(place);

	if (vfp_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return VFP_NEXT(utimensat, SYS_utimensat, dirfd, path, times, flags);
}

VFP_EXPORT int futimesat(int dirfd, const char *path,
			 const struct timeval times[2])
{
	VFP_PLACE(place);

	if (vfp_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return vfp.next.futimesat ? vfp.next.futimesat(dirfd, path, times)
				  : not_there();
}
