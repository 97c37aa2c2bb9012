/* SPDX-License-Identifier: MIT */
/**
 * @file state.c
 * The ground floor: what the library knows once it is made usable (init.c), and
 * how results become libc's.
 */
#include <errno.h>

#include "preload.h"

struct vfp vfp;
__typeof__(syscall) *vfp_real_syscall;

long vfp_result(long result)
{
	if (result < 0 && result >= -4095) {
		errno = (int)-result;
		return -1;
	}
	return result;
}
