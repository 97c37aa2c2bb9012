/* SPDX-License-Identifier: MIT */
/**
 * @file libc_fd.c
 * Overridden libc functions: those that make and close fds. Closing an
 * emulated one needs nothing; our connections must not be closed.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdarg.h>

#include "fds.h"
#include "preload.h"
#include "sys.h"

VFE_EXPORT int close(int fd)
{
	if (VFE_RARE(vfe_is_internal(fd)))
		return (int)vfe_result(-EBADF);
	if (VFE_RARE(!vfe.next.close))
		return (int)vfe_result(vfe_sys1(SYS_close, fd));
	return vfe.next.close(fd);
}

static int appeared(int fd)
{
	if (fd >= 0 && vfe.active)
		vfe_fd_appears(fd);
	return fd;
}

VFE_EXPORT int dup(int fd)
{
	if (VFE_RARE(vfe_is_internal(fd)))
		return (int)vfe_result(-EBADF);
	if (vfe_unrelated(fd) && vfe.next.dup)
		return vfe.next.dup(fd);
	return appeared((int)vfe_result(vfe_sys1(SYS_dup, fd)));
}

static int dup_to(int from, int to, int flags)
{
	if (VFE_RARE(vfe_is_internal(from)))
		return (int)vfe_result(-EBADF);
	if (VFE_RARE(vfe_is_internal(to)))
		return (int)vfe_result(-EBUSY);
	return appeared((int)vfe_result(vfe_sys3(SYS_dup3, from, to, flags)));
}

VFE_EXPORT int dup2(int from, int to)
{
	/* dup3() refuses what dup2() takes for a question. */
	if (from == to)
		return vfe_sys2(SYS_fcntl, from, F_GETFD) < 0 ||
				       vfe_is_internal(from)
			       ? (int)vfe_result(-EBADF)
			       : to;
	return dup_to(from, to, 0);
}

VFE_EXPORT int dup3(int from, int to, int flags)
{
	return dup_to(from, to, flags);
}
