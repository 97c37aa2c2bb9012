/* SPDX-License-Identifier: MIT */
/**
 * @file libc_copy.c
 * Overridden libc functions: copy_file_range(), which would copy the file that
 * is behind a live one, or over it. Who calls it reads and writes then.
 */
#include <errno.h>

#include "preload.h"
#include "sys.h"

static bool is_live(int fd)
{
	struct vfp_file file;

	return vfp_emulated(fd, &file) && file.kind == VFP_ATTRIBUTE;
}

VFP_EXPORT ssize_t copy_file_range(int from, off64_t *from_at, int to,
				   off64_t *to_at, size_t size,
				   unsigned int flags)
{
	if (VFP_RARE(is_live(from) || is_live(to)))
		return vfp_result(-EXDEV);
	if (VFP_RARE(!vfp.next.copy_file_range))
		return vfp_result(vfp_sys6(SYS_copy_file_range, from,
					   VFP_ARG(from_at), to, VFP_ARG(to_at),
					   VFP_ARG(size), flags));
	return vfp.next.copy_file_range(from, from_at, to, to_at, size, flags);
}
