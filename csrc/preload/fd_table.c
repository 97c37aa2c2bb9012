/* SPDX-License-Identifier: MIT */
/**
 * @file fd_table.c
 * What is remembered of fds: a word for each (fds.c says what for).
 */
#include "fd_table.h"

_Atomic uint32_t vfe_fds[VFE_FDS];

/* VFE_INTERNAL stays: there may be a connection in another fd table. */
void vfe_fd_appears(int fd)
{
	if ((unsigned int)fd >= VFE_FDS)
		return;
	uint32_t word = atomic_load(&vfe_fds[fd]);
	while (!atomic_compare_exchange_weak(
		&vfe_fds[fd], &word, (word & ~(VFE_NOT | VFE_SEEN)) + VFE_STEP))
		;
}

void vfe_fd_is_ours(int fd)
{
	vfe_fd_appears(fd);
	if ((unsigned int)fd < VFE_FDS)
		atomic_fetch_or(&vfe_fds[fd], VFE_SEEN);
}

void vfe_fd_internal(int fd)
{
	if ((unsigned int)fd >= VFE_FDS)
		return;
	atomic_fetch_or(&vfe_fds[fd], VFE_INTERNAL);
	vfe_fd_appears(fd);
}
