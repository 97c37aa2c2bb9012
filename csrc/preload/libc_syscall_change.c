/* SPDX-License-Identifier: MIT */
/**
 * @file libc_syscall_change.c
 * More of syscall(): it hands on to the functions that are overridden by name,
 * as libc_syscall.c does.
 */
#include <stdio.h>
#include <sys/statfs.h>

#include "by_number.h"
#include "sys.h"

bool vfp_change_call(long number, const long a[6], long *result)
{
	const char *path = (const char *)a[0], *at = (const char *)a[1];

	switch (number) {
#ifdef SYS_open
	case SYS_chmod:
		*result = chmod(path, (mode_t)a[1]);
		return true;
	case SYS_chown:
		*result = chown(path, (uid_t)a[1], (gid_t)a[2]);
		return true;
	case SYS_unlink:
		*result = unlink(path);
		return true;
	case SYS_rename:
		*result = rename(path, at);
		return true;
	case SYS_mkdir:
		*result = mkdir(path, (mode_t)a[1]);
		return true;
#endif
	case SYS_fchmodat:
		*result = fchmodat((int)a[0], at, (mode_t)a[2], 0);
		return true;
	case SYS_fchmod:
		*result = fchmod((int)a[0], (mode_t)a[1]);
		return true;
	case SYS_fchownat:
		*result = fchownat((int)a[0], at, (uid_t)a[2], (gid_t)a[3],
				   (int)a[4]);
		return true;
	case SYS_fchown:
		*result = fchown((int)a[0], (uid_t)a[1], (gid_t)a[2]);
		return true;
	case SYS_unlinkat:
		*result = unlinkat((int)a[0], at, (int)a[2]);
		return true;
	case SYS_renameat2:
		*result = renameat2((int)a[0], at, (int)a[2],
				    (const char *)a[3], (unsigned int)a[4]);
		return true;
	case SYS_mkdirat:
		*result = mkdirat((int)a[0], at, (mode_t)a[2]);
		return true;
	case SYS_truncate:
		*result = truncate64(path, a[1]);
		return true;
	case SYS_ftruncate:
		*result = ftruncate64((int)a[0], a[1]);
		return true;
	case SYS_statfs:
		*result = statfs64(path, (struct statfs64 *)a[1]);
		return true;
	case SYS_fstatfs:
		*result = fstatfs64((int)a[0], (struct statfs64 *)a[1]);
		return true;
	case SYS_copy_file_range:
		*result = copy_file_range((int)a[0], (off64_t *)a[1], (int)a[2],
					  (off64_t *)a[3], (size_t)a[4],
					  (unsigned int)a[5]);
		return true;
	case SYS_execve:
		*result =
			execve(path, (char *const *)a[1], (char *const *)a[2]);
		return true;
	case SYS_execveat:
		*result = execveat((int)a[0], at, (char *const *)a[2],
				   (char *const *)a[3], (int)a[4]);
		return true;
	default:
		return false;
	}
}
