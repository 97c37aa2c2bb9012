/* SPDX-License-Identifier: MIT */
/**
 * @file path_change.c
 * Overridden libc functions: those that make, remove and rename files, or
 * change how long they are. In sysfs nobody can (fs/kernfs/dir.c), and nodes
 * come and go with their devices only.
 */
#include <errno.h>
#include <stdio.h>

#include "dma.h"
#include "path.h"
#include "sys.h"

/* Whether something is there, at the very place. */
static bool is_there(const char *real, struct stat *status, long *error)
{
	*error = vfp_sys4(SYS_newfstatat, AT_FDCWD, real, status,
			  AT_SYMLINK_NOFOLLOW);
	return !*error;
}

/* The directory cannot be written to: not even by root, in sysfs. */
static int never(void)
{
	return (int)vfp_result(vfp_path_is_master() ? -EPERM : -EACCES);
}

static int refuse_removal(const char *real, int flags)
{
	struct stat status;
	long error;

	if (!is_there(real, &status, &error))
		return (int)vfp_result(error);
	if (!vfp_path_is_master())
		return never();
	if (flags & AT_REMOVEDIR && !S_ISDIR(status.st_mode))
		return (int)vfp_result(-ENOTDIR);
	if (!(flags & AT_REMOVEDIR) && S_ISDIR(status.st_mode))
		return (int)vfp_result(-EISDIR);
	return never();
}

static int refuse_creation(const char *real)
{
	struct stat status;
	long error;

	if (is_there(real, &status, &error))
		return (int)vfp_result(-EEXIST);
	if (error != -ENOENT)
		return (int)vfp_result(error);
	/* The directory that would hold it. */
	VFP_PLACE(place);
	char *parent = vfp_place_room(&place) ? place->real : NULL;
	size_t size = strlen(real);

	if (!parent)
		return (int)vfp_result(-ENOMEM);
	memcpy(parent, real, size + 1);
	while (size && parent[size - 1] == '/')
		size--;
	while (size && parent[size - 1] != '/')
		size--;
	parent[size] = 0;
	if (!is_there(parent, &status, &error))
		return (int)vfp_result(error);
	return never();
}

/* A path of ours, to be changed: if it leads out of the tree after all, the
 * call goes on with the name of where it leads. */
static bool is_refused(int dirfd, const char *path, struct vfp_place **place,
		       bool *moved)
{
	*moved = vfp_moved(dirfd, path, place);
	return *moved && vfp_path_virtual((*place)->real);
}

/* --- removal --- */

#define REMOVE(name, number, flags)                                            \
	VFP_EXPORT int name(const char *path)                                  \
	{                                                                      \
		VFP_PLACE(place);                                              \
		bool moved;                                                    \
                                                                               \
		if (is_refused(AT_FDCWD, path, &place, &moved))                \
			return refuse_removal(place->real, flags);             \
		if (moved)                                                     \
			path = place->real;                                    \
		return vfp.next.name ? vfp.next.name(path)                     \
				     : (int)vfp_result(vfp_sys3(SYS_unlinkat,  \
								AT_FDCWD,      \
								path, flags)); \
	}

REMOVE(unlink, SYS_unlinkat, 0)
REMOVE(rmdir, SYS_unlinkat, AT_REMOVEDIR)

VFP_EXPORT int unlinkat(int dirfd, const char *path, int flags)
{
	VFP_PLACE(place);
	bool moved;

	if (is_refused(dirfd, path, &place, &moved))
		return refuse_removal(place->real, flags);
	if (moved) {
		dirfd = AT_FDCWD;
		path = place->real;
	}
	return VFP_NEXT(unlinkat, SYS_unlinkat, dirfd, path, flags);
}

VFP_EXPORT int remove(const char *path)
{
	VFP_PLACE(place);
	struct stat status;
	bool moved;
	long error;

	if (is_refused(AT_FDCWD, path, &place, &moved)) {
		bool directory = is_there(place->real, &status, &error) &&
				 S_ISDIR(status.st_mode);

		return refuse_removal(place->real,
				      directory ? AT_REMOVEDIR : 0);
	}
	if (moved)
		path = place->real;
	return vfp.next.remove ? vfp.next.remove(path)
			       : (int)vfp_result(-ENOSYS);
}

/* --- two names --- */

/* Whether a name of ours is among them: then `*result` says what comes of it.
 */
static bool refuse_two(int from_dirfd, const char **from,
		       struct vfp_place **from_place, int to_dirfd,
		       const char **to, struct vfp_place **to_place,
		       int *result)
{
	bool from_moved, to_moved;
	bool ours = is_refused(from_dirfd, *from, from_place, &from_moved);
	bool theirs = is_refused(to_dirfd, *to, to_place, &to_moved);
	struct stat status;
	long error;

	if (from_moved)
		*from = (*from_place)->real;
	if (to_moved)
		*to = (*to_place)->real;
	if (!ours && !theirs)
		return false;
	error = ours ? (is_there(*from, &status, &error) ? 0 : error)
		     : vfp_sys4(SYS_newfstatat, from_dirfd, *from, &status,
				AT_SYMLINK_NOFOLLOW);
	if (error)
		*result = (int)vfp_result(error);
	else
		*result = ours && theirs ? never() : (int)vfp_result(-EXDEV);
	return true;
}

#define TWO(name, arguments, from_dirfd, to_dirfd, system_call, hand_on)      \
	VFP_EXPORT int name arguments                                         \
	{                                                                     \
		VFP_PLACE(from_place);                                        \
		VFP_PLACE(to_place);                                          \
		int result;                                                   \
                                                                              \
		if (refuse_two(from_dirfd, &from, &from_place, to_dirfd, &to, \
			       &to_place, &result))                           \
			return result;                                        \
		return vfp.next.name ? vfp.next.name hand_on                  \
				     : (int)vfp_result(system_call);          \
	}

TWO(rename, (const char *from, const char *to), AT_FDCWD, AT_FDCWD,
    vfp_sys5(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0), (from, to))
TWO(renameat, (int olddir, const char *from, int newdir, const char *to),
    olddir, newdir, vfp_sys5(SYS_renameat2, olddir, from, newdir, to, 0),
    (olddir, from, newdir, to))
TWO(renameat2,
    (int olddir, const char *from, int newdir, const char *to,
     unsigned int flags),
    olddir, newdir, vfp_sys5(SYS_renameat2, olddir, from, newdir, to, flags),
    (olddir, from, newdir, to, flags))
TWO(link, (const char *from, const char *to), AT_FDCWD, AT_FDCWD,
    vfp_sys5(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0), (from, to))
TWO(linkat,
    (int olddir, const char *from, int newdir, const char *to, int flags),
    olddir, newdir, vfp_sys5(SYS_linkat, olddir, from, newdir, to, flags),
    (olddir, from, newdir, to, flags))

/* --- creation: open() is in libc_open.c --- */

#define MAKE(name, arguments, dirfd, moved_dirfd, system_call, hand_on) \
	VFP_EXPORT int name arguments                                   \
	{                                                               \
		VFP_PLACE(place);                                       \
		bool moved;                                             \
                                                                        \
		if (is_refused(dirfd, path, &place, &moved))            \
			return refuse_creation(place->real);            \
		if (moved) {                                            \
			path = place->real;                             \
			moved_dirfd;                                    \
		}                                                       \
		return vfp.next.name ? vfp.next.name hand_on            \
				     : (int)vfp_result(system_call);    \
	}

MAKE(mkdir, (const char *path, mode_t mode), AT_FDCWD, (void)0,
     vfp_sys3(SYS_mkdirat, AT_FDCWD, path, mode), (path, mode))
MAKE(mkdirat, (int dirfd, const char *path, mode_t mode), dirfd,
     dirfd = AT_FDCWD, vfp_sys3(SYS_mkdirat, dirfd, path, mode),
     (dirfd, path, mode))
MAKE(mknod, (const char *path, mode_t mode, dev_t device), AT_FDCWD, (void)0,
     vfp_sys4(SYS_mknodat, AT_FDCWD, path, mode, device), (path, mode, device))
MAKE(mknodat, (int dirfd, const char *path, mode_t mode, dev_t device), dirfd,
     dirfd = AT_FDCWD, vfp_sys4(SYS_mknodat, dirfd, path, mode, device),
     (dirfd, path, mode, device))
MAKE(mkfifo, (const char *path, mode_t mode), AT_FDCWD, (void)0,
     vfp_sys4(SYS_mknodat, AT_FDCWD, path, mode | S_IFIFO, 0), (path, mode))
MAKE(mkfifoat, (int dirfd, const char *path, mode_t mode), dirfd,
     dirfd = AT_FDCWD, vfp_sys4(SYS_mknodat, dirfd, path, mode | S_IFIFO, 0),
     (dirfd, path, mode))
MAKE(symlink, (const char *target, const char *path), AT_FDCWD, (void)0,
     vfp_sys3(SYS_symlinkat, target, AT_FDCWD, path), (target, path))
MAKE(symlinkat, (const char *target, int dirfd, const char *path), dirfd,
     dirfd = AT_FDCWD, vfp_sys3(SYS_symlinkat, target, dirfd, path),
     (target, dirfd, path))

/* --- length: attributes have none that could be changed --- */

static int check_length(const char *real, off_t size)
{
	struct stat status;
	long error;

	if (size < 0)
		return (int)vfp_result(-EINVAL);
	error = vfp_sys4(SYS_newfstatat, AT_FDCWD, real, &status, 0);
	if (error)
		return (int)vfp_result(error);
	if (S_ISDIR(status.st_mode))
		return (int)vfp_result(-EISDIR);
	if (vfp_path_is_node(vfp_path_virtual(real)))
		return (int)vfp_result(-EINVAL);
	return (int)vfp_result(
		vfp_sys4(SYS_faccessat2, AT_FDCWD, real, W_OK, AT_EACCESS));
}

/* What DMA reaches of a file does not go with its end: dma.h. */
static int cut(const char *path, off_t size, __typeof__(truncate) *next)
{
	int fd = -1, result;
	struct statx file;

	if (VFP_RARE(atomic_load(&vfp_dma_seen)) &&
	    !vfp_sys5(SYS_statx, AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE,
		      &file) &&
	    S_ISREG(file.stx_mode))
		fd = (int)vfp_sys4(SYS_openat, AT_FDCWD, path,
				   O_WRONLY | O_CLOEXEC | O_NONBLOCK, 0);
	bool kept = fd >= 0 && vfp_dma_truncates(fd, (uint64_t)size, false);

	result = next ? next(path, size)
		      : (int)vfp_result(vfp_sys2(SYS_truncate, path, size));
	if (kept && result)
		vfp_dma_truncates(fd, (uint64_t)size, true);
	if (fd >= 0)
		vfp_sys1(SYS_close, fd);
	return result;
}

#define TRUNCATE(name)                                          \
	VFP_EXPORT int name(const char *path, off_t size)       \
	{                                                       \
		VFP_PLACE(place);                               \
		bool moved;                                     \
                                                                \
		if (is_refused(AT_FDCWD, path, &place, &moved)) \
			return check_length(place->real, size); \
		if (moved)                                      \
			path = place->real;                     \
		return cut(path, size, vfp.next.name);          \
	}

TRUNCATE(truncate)
TRUNCATE(truncate64)

/* Whether an fd can be written to, as ftruncate() asks. */
static int is_writable(int fd, off_t size, const char *real)
{
	long flags = vfp_sys2(SYS_fcntl, fd, F_GETFL);

	if (size < 0 || (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY) ||
	    vfp_path_is_node(vfp_path_virtual(real)))
		return (int)vfp_result(-EINVAL);
	return (int)vfp_result(flags < 0 ? flags : 0);
}

#define FTRUNCATE(name)                                              \
	VFP_EXPORT int name(int fd, off_t size)                      \
	{                                                            \
		VFP_PLACE(place);                                    \
		bool kept;                                           \
		int result;                                          \
                                                                     \
		if (vfp_path_behind_fd(fd, &place))                  \
			return is_writable(fd, size, place->real);   \
		kept = vfp_dma_truncates(fd, (uint64_t)size, false); \
		result = VFP_NEXT(name, SYS_ftruncate, fd, size);    \
		if (VFP_RARE(kept) && result)                        \
			vfp_dma_truncates(fd, (uint64_t)size, true); \
		return result;                                       \
	}

FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)
