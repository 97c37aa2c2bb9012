/* SPDX-License-Identifier: MIT */
/**
 * @file path_fd.c
 * Names and fds: what /proc/self/fd says of an fd, and paths that go through
 * its links. In the kernel they lead to the file itself, here to what stands
 * for it, so they are understood before it sees them.
 */
#include <errno.h>
#include <limits.h>

#include "path.h"
#include "sys.h"
#include "text.h"

#define FD_NAME "/proc/self/fd/"

/* What /proc/self/fd has of an fd: how long it is, or a negative errno. */
static long fd_name(int fd, char *out, size_t room)
{
	char name[sizeof(FD_NAME) + 10] = FD_NAME;

	if (fd < 0)
		return -EBADF;
	*vfp_path_put_number(name + sizeof(FD_NAME) - 1, (unsigned int)fd) = 0;
	long size = vfp_sys4(SYS_readlinkat, AT_FDCWD, name, out, room - 1);

	if (size > 0)
		out[size] = 0;
	return size;
}

bool vfp_path_of_fd(int fd, char *out)
{
	return fd_name(fd, out, VFP_PATH_MAX) > 0 && *out == '/';
}

bool vfp_socket_name(int fd, char *out, size_t room)
{
	return fd_name(fd, out, room) > 0 && *out == 's';
}

/* --- links of the process --- */

static const char *skip_slashes(const char *path)
{
	while (*path == '/')
		path++;
	return path;
}

/* What follows `name`, if that comes next; NULL too if `path` is. */
static const char *take(const char *path, const char *name)
{
	path = path ? skip_slashes(path) : "";
	return vfp_path_is_below(path, name) ? path + strlen(name) : NULL;
}

static const char *take_number(const char *path, long *number)
{
	const char *at = path ? skip_slashes(path) : "";
	const char *start = at;

	for (*number = 0; *at >= '0' && *at <= '9'; at++)
		if (*number < INT_MAX)
			*number = *number * 10 + (*at - '0');
	return at > start && *number < INT_MAX && (!*at || *at == '/') ? at
								       : NULL;
}

/* "/proc/self" by any of its names: what follows. */
static const char *take_process(const char *path)
{
	const char *process = take(path, "proc"), *rest;
	long number;

	if (!process)
		return NULL;
	if ((rest = take(process, "self")) ||
	    (rest = take(process, "thread-self")))
		return rest;
	rest = take_number(process, &number);
	return rest && number == vfp_sys0(SYS_getpid) ? rest : NULL;
}

/* "/proc/self/fd/N": what follows. */
static const char *take_fd(const char *path, long *fd)
{
	const char *rest = take_number(take(take(path, "dev"), "fd"), fd);

	return rest ? rest : take_number(take(take_process(path), "fd"), fd);
}

const char *vfp_path_through(const char *path, int *dirfd)
{
	const char *process, *rest;
	long fd;

	if (*path != '/')
		return path;
	rest = take_fd(path, &fd);
	if (rest && *skip_slashes(rest)) {
		*dirfd = (int)fd;
		return skip_slashes(rest);
	}
	process = rest ? NULL : take_process(path);
	rest = take(process, "cwd");
	if (rest && *skip_slashes(rest)) {
		*dirfd = AT_FDCWD;
		return skip_slashes(rest);
	}
	rest = take(process, "root");
	return rest && *skip_slashes(rest) ? rest : path;
}

int vfp_path_link_fd(const char *name)
{
	VFP_PLACE(place);
	const char *rest;
	long fd = -1;

	if (!vfp_place_room(&place) || vfp_text_copy(place->real, name) <= 0)
		return -1;
	rest = *place->real == '/' ? take_fd(place->real, &fd) : NULL;
	return rest && !*rest ? (int)fd : -1;
}
