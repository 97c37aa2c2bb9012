/* SPDX-License-Identifier: MIT */
/**
 * @file libc_splice.c
 * Overridden libc functions: those that have the kernel look for a file's
 * operations, and refuse one that has none of them. VFIO's files have neither
 * splice_read nor splice_write (do_splice_read(), do_splice_from()), and but
 * for data fds and DMA buffers no poll (file_can_poll()). A socket has all
 * three.
 *
 * tee(), vmsplice() and copy_file_range() refuse a socket as they refuse
 * VFIO's.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>

#include "preload.h"
#include "sys.h"

#define SPLICE_FLAGS \
	(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT)

static bool is_ours(int fd)
{
	struct vfp_file file;

	return vfp_emulated(fd, &file) && file.kind != VFP_OTHER;
}

static bool is_open(int fd)
{
	return vfp_sys2(SYS_fcntl, fd, F_GETFD) >= 0;
}

static bool is_pipe(int fd)
{
	return vfp_sys2(SYS_fcntl, fd, F_GETPIPE_SZ) >= 0;
}

/* Whether a position that was given can be read. */
static bool is_there(const off64_t *at)
{
	off64_t position;

	return !at || !vfp_copy_in(&position, at, sizeof(position));
}

/* do_splice() with one of VFIO's files. */
static long refused_splice(int in, const off64_t *in_at, int out,
			   const off64_t *out_at, size_t size,
			   unsigned int flags)
{
	if (!size)
		return 0;
	if (flags & ~(unsigned int)SPLICE_FLAGS)
		return -EINVAL;
	if (!is_open(in) || !is_open(out))
		return -EBADF;
	if ((in_at && is_pipe(in)) || (out_at && is_pipe(out)))
		return -ESPIPE;
	return is_there(in_at) && is_there(out_at) ? -EINVAL : -EFAULT;
}

VFP_EXPORT ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at,
			  size_t size, unsigned int flags)
{
	if (is_ours(in) || is_ours(out))
		return vfp_result(
			refused_splice(in, in_at, out, out_at, size, flags));
	if (VFP_RARE(!vfp.next.splice))
		return vfp_result(vfp_sys6(SYS_splice, in, VFP_ARG(in_at), out,
					   VFP_ARG(out_at), (long)size, flags));
	return vfp.next.splice(in, in_at, out, out_at, size, flags);
}

/* Whether a file has no positions (FMODE_PREAD): a pipe, a data fd. */
static bool is_stream(int fd)
{
	struct vfp_file file;

	return vfp_emulated(fd, &file)
		       ? file.kind == VFP_DATA
		       : vfp_sys3(SYS_lseek, fd, 0, SEEK_CUR) == -ESPIPE;
}

/* do_sendfile() with one of VFIO's files. */
static long refused_sendfile(int out, int in, const off64_t *at)
{
	if (!is_there(at))
		return -EFAULT;
	if (!is_open(in))
		return -EBADF;
	if (at && is_stream(in))
		return -ESPIPE;
	return is_open(out) ? -EINVAL : -EBADF;
}

#define SENDFILE(name, type)                                              \
	VFP_EXPORT ssize_t name(int out, int in, type *at, size_t size)   \
	{                                                                 \
		if (is_ours(in) || is_ours(out))                          \
			return vfp_result(refused_sendfile(out, in, at)); \
		return VFP_NEXT(name, SYS_sendfile, out, in, at, size);   \
	}

SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

/* Whether its driver has a poll operation. */
static bool can_poll(enum vfp_kind kind)
{
	return kind == VFP_DATA || kind == VFP_DMA_BUF;
}

/* do_epoll_ctl() with a file that cannot be polled. */
static int refused_epoll(int epoll, int op, const struct epoll_event *event)
{
	struct epoll_event copy;

	if (op != EPOLL_CTL_DEL && vfp_copy_in(&copy, event, sizeof(copy)))
		return -EFAULT;
	return is_open(epoll) ? -EPERM : -EBADF;
}

VFP_EXPORT int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	struct vfp_file file;

	if (vfp_emulated(fd, &file) && !can_poll(file.kind))
		return (int)vfp_result(
			file.kind == VFP_OTHER
				? -EBADF
				: refused_epoll(epoll, op, event));
	return VFP_NEXT(epoll_ctl, SYS_epoll_ctl, epoll, op, fd, event);
}
