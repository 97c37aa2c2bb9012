/* SPDX-License-Identifier: MIT */
/**
 * @file path_fd.c
 * Names and fds: what /proc/self/fd says of an fd.
 */
#include <errno.h>

#include "path.h"
#include "sys.h"

#define FD_NAME "/proc/self/fd/"

/* What /proc/self/fd has of an fd: how long it is, or a negative errno. */
static long fd_name(int fd, char *out, size_t room)
{
	char name[sizeof(FD_NAME) + 10] = FD_NAME;
	char digits[10];
	size_t count = 0;
	size_t at = sizeof(FD_NAME) - 1;

	if (fd < 0)
		return -EBADF;
	do {
		digits[count++] = (char)('0' + fd % 10);
		fd /= 10;
	} while (fd);
	while (count)
		name[at++] = digits[--count];
	name[at] = 0;
	long size = vfe_sys4(SYS_readlinkat, AT_FDCWD, name, out, room - 1);

	if (size > 0)
		out[size] = 0;
	return size;
}

bool vfe_path_of_fd(int fd, char *out)
{
	return fd_name(fd, out, VFE_PATH_MAX) > 0 && *out == '/';
}

bool vfe_socket_name(int fd, char *out, size_t room)
{
	return fd_name(fd, out, room) > 0 && *out == 's';
}
