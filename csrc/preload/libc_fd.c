/* SPDX-License-Identifier: MIT */
/**
 * @file libc_fd.c
 * Overridden libc functions: those that make and close fds. Closing an
 * emulated one needs nothing of us; but our own connections are hidden from
 * the program, which would take them for leaks of its own and close them.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <stdarg.h>

#include "fd_table.h"
#include "fds.h"
#include "holds.h"
#include "own.h"
#include "preload.h"
#include "session.h"
#include "sys.h"

#if defined(__x86_64__)
#define LARGE_FILE 0100000 /* glibc has it as 0 */
#else
#define LARGE_FILE 0400000
#endif

VFP_EXPORT int close(int fd)
{
	if (VFP_RARE(vfp_is_internal(fd)))
		return (int)vfp_result(-EBADF);
	if (VFP_RARE(!vfp.next.close))
		return (int)vfp_result(vfp_sys1(SYS_close, fd));
	return vfp.next.close(fd);
}

/* A function that makes fds has returned. */
static int appeared(int fd)
{
	if (fd >= 0 && vfp.active)
		vfp_fd_appears(fd);
	return fd;
}

VFP_EXPORT int dup(int fd)
{
	if (VFP_RARE(vfp_is_internal(fd)))
		return (int)vfp_result(-EBADF);
	return appeared((int)vfp_result(vfp_sys1(SYS_dup, fd)));
}

static int dup_to(int from, int to, int flags)
{
	int error;

	if (VFP_RARE(vfp_is_internal(from)))
		return (int)vfp_result(-EBADF);
	if (VFP_RARE(vfp_is_internal(to))) {
		error = vfp_connection_move(to);
		if (!error)
			error = vfp_hold_move(to);
		if (error)
			return (int)vfp_result(error);
	}
	return appeared((int)vfp_result(vfp_sys3(SYS_dup3, from, to, flags)));
}

VFP_EXPORT int dup2(int from, int to)
{
	if (from != to)
		return dup_to(from, to, 0);
	/* dup3() refuses what is a question to dup2(). */
	if (vfp_is_internal(from))
		return (int)vfp_result(-EBADF);
	return vfp_result(vfp_sys2(SYS_fcntl, from, F_GETFD)) < 0 ? -1 : to;
}

VFP_EXPORT int dup3(int from, int to, int flags)
{
	return dup_to(from, to, flags);
}

/* What a socket says of itself, as the file says it. A live file of the tree is
 * no socket, and knows what it was opened for. */
static int flags_of(int fd, int flags)
{
	struct vfp_file file;

	if (flags < 0 || !vfp_emulated(fd, &file) || file.kind == VFP_OTHER ||
	    file.kind == VFP_ATTRIBUTE)
		return flags;
	/* force_o_largefile(), of open() */
	if (file.kind == VFP_CONTAINER || file.kind == VFP_GROUP)
		flags |= LARGE_FILE;
	return (flags & ~O_ACCMODE) | vfp_access(&file);
}

#define FCNTL(name)                                                         \
	VFP_EXPORT int name(int fd, int cmd, ...)                           \
	{                                                                   \
		va_list args;                                               \
		void *arg;                                                  \
		int result;                                                 \
                                                                            \
		va_start(args, cmd);                                        \
		arg = va_arg(args, void *);                                 \
		va_end(args);                                               \
		if (VFP_RARE(vfp_is_internal(fd)))                          \
			return (int)vfp_result(-EBADF);                     \
		result = vfp.next.name ? vfp.next.name(fd, cmd, arg)        \
				       : (int)vfp_result(vfp_sys3(          \
						 SYS_fcntl, fd, cmd, arg)); \
		if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)               \
			appeared(result);                                   \
		if (VFP_RARE(cmd == F_GETFL))                               \
			return flags_of(fd, result);                        \
		return result;                                              \
	}

FCNTL(fcntl)
FCNTL(fcntl64)

/* Around our connections, which are close-on-exec already. */
static long close_others(uint64_t next, uint64_t last, int flags)
{
	long result = 0;

	/* Whatever is closed then: nothing perhaps, or in several steps. */
	if (flags & (int)CLOSE_RANGE_UNSHARE)
		result = vfp_sys3(SYS_close_range, ~0u, ~0u,
				  CLOSE_RANGE_UNSHARE);
	flags &= ~(int)CLOSE_RANGE_UNSHARE;
	while (!result && next <= last) {
		uint64_t ours = flags & (int)CLOSE_RANGE_CLOEXEC
					? UINT64_MAX
					: vfp_own_next(next);
		uint64_t end = ours <= last ? ours : last + 1;

		if (end > next)
			result =
				vfp_sys3(SYS_close_range, next, end - 1, flags);
		next = end + 1;
	}
	return result;
}

VFP_EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
	if (first > last ||
	    flags & ~(int)(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC))
		return (int)vfp_result(-EINVAL);
	if (flags & (int)CLOSE_RANGE_UNSHARE)
		vfp_fds_unshared();
	return (int)vfp_result(close_others(first, last, flags));
}

VFP_EXPORT void closefrom(int low)
{
	int saved = errno;
	uint64_t first = low < 0 ? 0 : (uint64_t)low;

	if (vfp_own_next(first) == UINT64_MAX && vfp.next.closefrom)
		vfp.next.closefrom(low);
	else
		close_others(first, ~0u, 0);
	errno = saved;
}

VFP_EXPORT int unshare(int flags)
{
	if (flags & CLONE_FILES)
		vfp_fds_unshared();
	return vfp.next.unshare ? vfp.next.unshare(flags)
				: (int)vfp_result(vfp_sys1(SYS_unshare, flags));
}

/* The fds that came with a message. */
static void received(const struct msghdr *msg)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(msg);

	for (; part;
	     part = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, part)) {
		const unsigned char *data = CMSG_DATA(part);
		size_t size = part->cmsg_len - CMSG_LEN(0);

		if (part->cmsg_level != SOL_SOCKET ||
		    part->cmsg_type != SCM_RIGHTS)
			continue;
		for (; size >= sizeof(int); size -= sizeof(int)) {
			int fd;

			__builtin_memcpy(&fd, data, sizeof(fd));
			appeared(fd);
			data += sizeof(fd);
		}
	}
}

VFP_EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t result = vfp_no_socket(fd);

	if (VFP_RARE(result))
		return vfp_result(result);
	result = vfp.next.recvmsg
			 ? vfp.next.recvmsg(fd, msg, flags)
			 : vfp_result(vfp_sys3(SYS_recvmsg, fd, msg, flags));
	if (result >= 0 && msg->msg_controllen && vfp.active)
		received(msg);
	return result;
}

VFP_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count,
			int flags, struct timespec *timeout)
{
	int result = vfp_no_socket(fd);

	if (VFP_RARE(result))
		return (int)vfp_result(result);
	result =
		vfp.next.recvmmsg
			? vfp.next.recvmmsg(fd, messages, count, flags, timeout)
			: (int)vfp_result(vfp_sys5(SYS_recvmmsg, fd, messages,
						   count, flags, timeout));

	for (int i = 0; i < result && vfp.active; i++)
		if (messages[i].msg_hdr.msg_controllen)
			received(&messages[i].msg_hdr);
	return result;
}

/* glibc has it since 2.36. */
VFP_EXPORT int pidfd_getfd(int pidfd, int fd, unsigned int flags)
{
	return appeared(
		(int)vfp_result(vfp_sys3(SYS_pidfd_getfd, pidfd, fd, flags)));
}

VFP_ALIAS(__close, close);
VFP_ALIAS(__dup2, dup2);
VFP_ALIAS(__fcntl, fcntl);
