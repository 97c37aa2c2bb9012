/* SPDX-License-Identifier: MIT */
/**
 * @file fd_table.c
 * What is remembered of fds: a word for each (fds.c says what for).
 */
#include "fd_table.h"

_Atomic uint32_t vfp_fds[VFP_FDS];

/* VFP_INTERNAL stays: there may be a connection in another fd table. */
void vfp_fd_appears(int fd)
{
	if ((unsigned int)fd >= VFP_FDS)
		return;
	uint32_t word = atomic_load(&vfp_fds[fd]);
	while (!atomic_compare_exchange_weak(
		&vfp_fds[fd], &word, (word & ~(VFP_NOT | VFP_SEEN)) + VFP_STEP))
		;
}

void vfp_fd_is_ours(int fd)
{
	vfp_fd_appears(fd);
	if ((unsigned int)fd < VFP_FDS)
		atomic_fetch_or(&vfp_fds[fd], VFP_SEEN);
}

void vfp_fd_internal(int fd)
{
	if ((unsigned int)fd >= VFP_FDS)
		return;
	atomic_fetch_or(&vfp_fds[fd], VFP_INTERNAL);
	vfp_fd_appears(fd);
}
