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
	long error = vfe_sys4(SYS_newfstatat, AT_FDCWD, real, &status, flags);

	if (error)
		return (int)vfe_result(error);
	if (S_ISLNK(status.st_mode))
		return (int)vfe_result(-EOPNOTSUPP);
	if (vfe_path_virtual(real)) {
		mode_t ours = S_ISVTX | (vfe_is_live(&status) ? S_ISGID : 0);

		mode = (mode & ~ours) | (status.st_mode & ours);
		if (vfe_path_is_write_only(&status)) /* we read it */
			mode |= S_IRUSR;
		if (S_ISDIR(status.st_mode))
			mode |= S_IRWXU;
	}
	return (int)vfe_result(
		vfe_sys3(SYS_fchmodat, AT_FDCWD, real, mode & 07777));
}

VFE_EXPORT int chmod(const char *path, mode_t mode)
{
	VFE_PLACE(place);

	if (vfe_moved(AT_FDCWD, path, &place))
		return change_mode(place->real, mode, 0);
	return vfe.next.chmod ? vfe.next.chmod(path, mode)
			      : (int)vfe_result(vfe_sys3(SYS_fchmodat, AT_FDCWD,
							 path, mode));
}

VFE_EXPORT int lchmod(const char *path, mode_t mode)
{
	VFE_PLACE(place);

	if (vfe_moved(AT_FDCWD, path, &place))
		return change_mode(place->real, mode, AT_SYMLINK_NOFOLLOW);
	return vfe.next.lchmod ? vfe.next.lchmod(path, mode)
			       : (int)vfe_result(-ENOSYS);
}

VFE_EXPORT int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
{
	VFE_PLACE(place);

	if (!(flags & ~AT_SYMLINK_NOFOLLOW) && vfe_moved(dirfd, path, &place))
		return change_mode(place->real, mode, flags);
	return vfe.next.fchmodat ? vfe.next.fchmodat(dirfd, path, mode, flags)
				 : (int)vfe_result(vfe_sys3(SYS_fchmodat, dirfd,
							    path, mode));
}

VFE_EXPORT int fchmod(int fd, mode_t mode)
{
	VFE_PLACE(place);

	if (vfe_path_behind_fd(fd, &place))
		return change_mode(place->real, mode, 0);
	return VFE_NEXT(fchmod, SYS_fchmod, fd, mode);
}

/* --- owners --- */

static int give(const char *real, uid_t uid, gid_t gid, int flags)
{
	if (!vfe_path_virtual(real))
		return (int)vfe_result(vfe_sys5(SYS_fchownat, AT_FDCWD, real,
						uid, gid, flags));
	return (int)vfe_result(vfe_path_give(real, flags, uid, gid));
}

#define CHOWN(name, flags)                                                     \
	VFE_EXPORT int name(const char *path, uid_t uid, gid_t gid)            \
	{                                                                      \
		VFE_PLACE(place);                                              \
                                                                               \
		if (vfe_moved(AT_FDCWD, path, &place))                         \
			return give(place->real, uid, gid, flags);             \
		return vfe.next.name                                           \
			       ? vfe.next.name(path, uid, gid)                 \
			       : (int)vfe_result(vfe_sys5(SYS_fchownat,        \
							  AT_FDCWD, path, uid, \
							  gid, flags));        \
	}

CHOWN(chown, 0)
CHOWN(lchown, AT_SYMLINK_NOFOLLOW)

VFE_EXPORT int fchown(int fd, uid_t uid, gid_t gid)
{
	VFE_PLACE(place);

	if (vfe_path_behind_fd(fd, &place))
		return give(place->real, uid, gid, 0);
	return VFE_NEXT(fchown, SYS_fchown, fd, uid, gid);
}

VFE_EXPORT int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid,
			int flags)
{
	VFE_PLACE(place);

	if (vfe_moved(dirfd, path, &place))
		return give(place->real, uid, gid, flags & AT_SYMLINK_NOFOLLOW);
	if (flags & AT_EMPTY_PATH && vfe_path_behind_fd(dirfd, &place))
		return give(place->real, uid, gid, 0);
	return VFE_NEXT(fchownat, SYS_fchownat, dirfd, path, uid, gid, flags);
}

/* --- times: the files have them themselves --- */

static int not_there(void)
{
	return (int)vfe_result(-ENOSYS);
}

#define TIMES(name, type)                                         \
	VFE_EXPORT int name(const char *path, type)               \
	{                                                         \
		VFE_PLACE(place);                                 \
                                                                  \
		if (vfe_moved(AT_FDCWD, path, &place))            \
			path = place->real;                       \
		return vfe.next.name ? vfe.next.name(path, times) \
				     : not_there();               \
	}

TIMES(utime, const struct utimbuf *times)
TIMES(utimes, const struct timeval times[2])
TIMES(lutimes, const struct timeval times[2])

VFE_EXPORT int utimensat(int dirfd, const char *path,
			 const struct timespec times[2], int flags)
{
	VFE_PLACE(place);

	if (vfe_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return VFE_NEXT(utimensat, SYS_utimensat, dirfd, path, times, flags);
}

VFE_EXPORT int futimesat(int dirfd, const char *path,
			 const struct timeval times[2])
{
	VFE_PLACE(place);

	if (vfe_moved(dirfd, path, &place)) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return vfe.next.futimesat ? vfe.next.futimesat(dirfd, path, times)
				  : not_there();
}
