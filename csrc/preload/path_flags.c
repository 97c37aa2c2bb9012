/* SPDX-License-Identifier: MIT */
/**
 * @file path_flags.c
 * How files of the tree are opened, as sysfs has it.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"

static long look(const char *path, struct stat *status)
{
	return vfp_sys4(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

/* The directory that would hold it is there. */
static bool has_parent(const char *real)
{
	char *parent = vfp_scratch_take();
	struct stat status;

	if (!parent)
		return false;
	strcpy(parent, real);
	*strrchr(parent, '/') = 0;
	bool found = !look(parent, &status) && S_ISDIR(status.st_mode);

	vfp_scratch_drop(parent);
	return found;
}

int vfp_path_flags(const char *real, int flags)
{
	const char *path = vfp_path_virtual(real);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	struct stat status;

	if (!path || flags & O_PATH)
		return flags;
	if ((flags & O_TMPFILE) == O_TMPFILE && path[1] == 's' &&
	    !look(real, &status) && S_ISDIR(status.st_mode))
		return -EOPNOTSUPP; /* kernfs has none */
	if (!writes && !(flags & (O_CREAT | O_TRUNC)))
		return look(real, &status) || !vfp_path_is_write_only(&status)
			       ? flags
			       : -EACCES;
	if (look(real, &status)) /* nobody can make files there */
		return flags & O_CREAT && has_parent(real) ? -EACCES : flags;
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return flags;
	/* kernfs_fop_open(): not even root */
	if (writes && S_ISREG(status.st_mode) && !(status.st_mode & 0222))
		return -EACCES;
	if ((flags & O_ACCMODE) != O_WRONLY && vfp_path_is_write_only(&status))
		return -EACCES;
	/* What is written is for the daemon, and replaces what the file has. */
	return flags & ~(O_TRUNC | O_APPEND);
}
