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
	struct vfe_file file;

	return vfe_emulated(fd, &file) && file.kind == VFE_ATTRIBUTE;
}

VFE_EXPORT ssize_t copy_file_range(int from, off64_t *from_at, int to,
				   off64_t *to_at, size_t size,
				   unsigned int flags)
{
	if (VFE_RARE(is_live(from) || is_live(to)))
		return vfe_result(-EXDEV);
	if (VFE_RARE(!vfe.next.copy_file_range))
		return vfe_result(vfe_sys6(SYS_copy_file_range, from,
					   VFE_ARG(from_at), to, VFE_ARG(to_at),
					   VFE_ARG(size), flags));
	return vfe.next.copy_file_range(from, from_at, to, to_at, size, flags);
}
