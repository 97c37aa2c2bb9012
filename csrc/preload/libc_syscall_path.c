/* SPDX-License-Identifier: MIT */
/**
 * @file libc_syscall_path.c
 * More of syscall(): it hands on to the functions that are overridden by name,
 * as libc_syscall.c does.
 */
#include <fcntl.h>
#include <sys/inotify.h>

#include "by_number.h"
#include "sys.h"

bool vfp_path_call(long number, const long a[6], long *result)
{
	const char *path = (const char *)a[0], *at = (const char *)a[1];
	void *out = (void *)a[2];

	switch (number) {
#ifdef SYS_open
	case SYS_stat:
		*result = stat(path, (struct stat *)a[1]);
		return true;
	case SYS_lstat:
		*result = lstat(path, (struct stat *)a[1]);
		return true;
	case SYS_access:
		*result = access(path, (int)a[1]);
		return true;
	case SYS_readlink:
		*result = readlink(path, (char *)a[1], (size_t)a[2]);
		return true;
#endif
	case SYS_newfstatat:
		*result = fstatat((int)a[0], at, out, (int)a[3]);
		return true;
	case SYS_statx:
		*result = statx((int)a[0], at, (int)a[2], (unsigned int)a[3],
				(struct statx *)a[4]);
		return true;
	case SYS_faccessat:
		*result = faccessat((int)a[0], at, (int)a[2], 0);
		return true;
	case SYS_faccessat2:
		*result = faccessat((int)a[0], at, (int)a[2], (int)a[3]);
		return true;
	case SYS_readlinkat:
		*result = readlinkat((int)a[0], at, out, (size_t)a[3]);
		return true;
	case SYS_inotify_add_watch:
		*result = inotify_add_watch((int)a[0], at, (uint32_t)a[2]);
		return true;
	case SYS_name_to_handle_at:
		*result = name_to_handle_at((int)a[0], at, out, (int *)a[3],
					    (int)a[4]);
		return true;
	case SYS_chdir:
		*result = chdir(path);
		return true;
	case SYS_fchdir:
		*result = fchdir((int)a[0]);
		return true;
	default:
		return false;
	}
}
