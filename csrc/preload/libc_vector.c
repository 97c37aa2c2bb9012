/* SPDX-License-Identifier: MIT */
/**
 * @file libc_vector.c
 * Overridden libc functions: reading and writing with vectors. VFIO files have
 * no read_iter, so the kernel calls their read or write for each part:
 * do_loop_readv_writev() in fs/read_write.c.
 */
#include <errno.h>
#include <limits.h>

#include "preload.h"
#include "sys.h"

#define PARTS	64   /* that are copied at a time */
#define CURRENT (-1) /* no offset: the file's position */

/* import_iovec(): the whole size, or a negative errno. */
static ssize_t whole_size(const struct iovec *parts, int count)
{
	struct iovec some[PARTS];
	size_t size = 0;

	if (count < 0 || count > IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		int left = count - i < PARTS ? count - i : PARTS;

		if (i % PARTS == 0 &&
		    vfp_copy_in(some, parts + i, (size_t)left * sizeof(*some)))
			return -EFAULT;
		if ((ssize_t)some[i % PARTS].iov_len < 0)
			return -EINVAL;
		size += some[i % PARTS].iov_len;
	}
	return size ? 1 : 0;
}

static ssize_t one(const struct vfp_file *file, const struct iovec *part,
		   off_t offset, bool writes)
{
	if (offset == CURRENT)
		return writes ? vfp_write(file, part->iov_base, part->iov_len)
			      : vfp_read(file, part->iov_base, part->iov_len);
	return writes ? vfp_pwrite(file, part->iov_base, part->iov_len, offset)
		      : vfp_pread(file, part->iov_base, part->iov_len, offset);
}

static ssize_t all(const struct vfp_file *file, const struct iovec *parts,
		   int count, off_t offset, bool writes)
{
	ssize_t done = whole_size(parts, count);

	if (done <= 0)
		return vfp_result(done);
	done = 0;
	for (int i = 0; i < count; i++) {
		struct iovec part;
		ssize_t size;

		if (vfp_copy_in(&part, parts + i, sizeof(part)))
			return done ? done : vfp_result(-EFAULT);
		if (!part.iov_len)
			continue;
		size = one(file, &part,
			   offset == CURRENT ? CURRENT : offset + done, writes);
		if (size < 0)
			return done ? done : size;
		done += size;
		if ((size_t)size < part.iov_len)
			break;
	}
	return done;
}

#define READV(name, writes)                                                   \
	VFP_EXPORT ssize_t name(int fd, const struct iovec *parts, int count) \
	{                                                                     \
		struct vfp_file file;                                         \
                                                                              \
		if (vfp_emulated(fd, &file))                                  \
			return all(&file, parts, count, CURRENT, writes);     \
		if (VFP_RARE(!vfp.next.name))                                 \
			return vfp_result(                                    \
				vfp_sys3(SYS_##name, fd, parts, count));      \
		return vfp.next.name(fd, parts, count);                       \
	}

READV(readv, false)
READV(writev, true)

#define PREADV(name, call, writes)                                            \
	VFP_EXPORT ssize_t name(int fd, const struct iovec *parts, int count, \
				off_t offset)                                 \
	{                                                                     \
		struct vfp_file file;                                         \
                                                                              \
		if (vfp_emulated(fd, &file))                                  \
			return offset < 0 ? vfp_result(-EINVAL)               \
					  : all(&file, parts, count, offset,  \
						writes);                      \
		if (VFP_RARE(!vfp.next.name))                                 \
			return vfp_result(                                    \
				vfp_sys5(call, fd, parts, count, offset, 0)); \
		return vfp.next.name(fd, parts, count, offset);               \
	}

PREADV(preadv, SYS_preadv, false)
PREADV(preadv64, SYS_preadv, false)
PREADV(pwritev, SYS_pwritev, true)
PREADV(pwritev64, SYS_pwritev, true)

/* No flag but RWF_HIPRI makes sense to do_loop_readv_writev(). */
static ssize_t with_flags(const struct vfp_file *file,
			  const struct iovec *parts, int count, off_t offset,
			  int flags, bool writes)
{
	if (offset < CURRENT)
		return vfp_result(-EINVAL);
	if (flags & ~RWF_HIPRI)
		return vfp_result(-EOPNOTSUPP);
	return all(file, parts, count, offset, writes);
}

#define PREADV2(name, call, writes)                                           \
	VFP_EXPORT ssize_t name(int fd, const struct iovec *parts, int count, \
				off_t offset, int flags)                      \
	{                                                                     \
		struct vfp_file file;                                         \
                                                                              \
		if (vfp_emulated(fd, &file))                                  \
			return with_flags(&file, parts, count, offset, flags, \
					  writes);                            \
		if (VFP_RARE(!vfp.next.name))                                 \
			return vfp_result(vfp_sys6(call, fd, VFP_ARG(parts),  \
						   count, offset, 0, flags)); \
		return vfp.next.name(fd, parts, count, offset, flags);        \
	}

PREADV2(preadv2, SYS_preadv2, false)
PREADV2(preadv64v2, SYS_preadv2, false)
PREADV2(pwritev2, SYS_pwritev2, true)
PREADV2(pwritev64v2, SYS_pwritev2, true)
