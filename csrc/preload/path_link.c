/* SPDX-License-Identifier: MIT */
/**
 * @file path_link.c
 * Overridden libc functions: those that tell what a path leads to, and those
 * that change or tell the working directory. None of them tells where the
 * tree is.
 */
#include <errno.h>
#include <limits.h>

#include "path.h"
#include "sys.h"

/* --- links: those of the tree are relative, as the kernel's --- */

static ssize_t read_link(int dirfd, const char *path, char *out, size_t size)
{
	return vfp_result(vfp_sys4(SYS_readlinkat, dirfd, path, out, size));
}

static __attribute__((noinline)) bool
moved_link(int dirfd, const char *path, char *out, size_t size, ssize_t *result)
{
	VFP_PLACE(place);

	if (!vfp_moved(dirfd, path, &place))
		return false;
	*result = read_link(AT_FDCWD, place->real, out, size);
	return true;
}

/* The number that a path ends with: of /proc/self/fd/N, by whatever name. */
static int last_number(const char *path)
{
	const char *name = strrchr(path, '/');
	int number = 0;

	name = name ? name + 1 : path;
	if (!*name)
		return -1;
	for (; *name; name++) {
		if (*name < '0' || *name > '9' || number > INT_MAX / 10 - 1)
			return -1;
		number = number * 10 + (*name - '0');
	}
	return number;
}

/* What the kernel says of an fd instead of "socket:[INODE]". */
static void file_name(const struct vfp_file *file, char *out)
{
	static const char *const names[] = {
		[VFP_CONTAINER] = "/dev/vfio/vfio",
		[VFP_GROUP] = "/dev/vfio/",
		[VFP_DEVICE] = "anon_inode:[vfio-device]",
		[VFP_DATA] = "anon_inode:[vfio-mig]",
		[VFP_DMA_BUF] = "/dmabuf:",
	};
	char digits[10];
	size_t count = 0;

	strcpy(out, names[file->kind]);
	if (file->kind != VFP_GROUP)
		return;
	unsigned int number = vfp_number(file);

	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	for (out += strlen(out); count; *out = 0)
		*out++ = digits[--count];
}

/* A link that leads to a socket is perhaps an fd's, and that emulated. */
static bool name_emulated(const char *path, char *text)
{
	char own[64];
	struct vfp_file file;
	int fd = last_number(path);

	if (fd < 0 || !vfp_socket_name(fd, own, sizeof(own)) ||
	    strcmp(own, text) || !vfp_emulated(fd, &file) ||
	    file.kind == VFP_OTHER)
		return false;
	file_name(&file, text);
	return true;
}

/* What to show in place of `text`; NULL: what is there. */
static const char *name_behind(int dirfd, const char *path, char *text)
{
	long whole =
		vfp_sys4(SYS_readlinkat, dirfd, path, text, VFP_PATH_MAX - 1);

	if (whole <= 0)
		return NULL;
	text[whole] = 0;
	return name_emulated(path, text) ? text : vfp_path_virtual(text);
}

/* /proc/self/fd/N: what emulated files and those of the tree are. */
static __attribute__((noinline)) ssize_t show_link(int dirfd, const char *path,
						   char *out, size_t size,
						   ssize_t result)
{
	char *text = vfp_scratch_take();
	const char *shown = text ? name_behind(dirfd, path, text) : NULL;

	if (shown) {
		size_t length = strlen(shown);

		if (length < size)
			size = length;
		result = vfp_copy_out(out, shown, size) ? vfp_result(-EFAULT)
							: (ssize_t)size;
	}
	vfp_scratch_drop(text);
	return result;
}

static ssize_t shown(int dirfd, const char *path, char *out, size_t size,
		     ssize_t result)
{
	if (result <= 0 || !vfp.active ||
	    ((size_t)result < size && *out != 's' &&
	     (*out != '/' || !vfp.root_size || (size_t)result < vfp.root_size)))
		return result;
	return show_link(dirfd, path, out, size, result);
}

#define READLINK(name, arguments, dirfd, room, hand_on)                      \
	VFP_EXPORT ssize_t name arguments                                    \
	{                                                                    \
		ssize_t result;                                              \
                                                                             \
		if (size <= (room) && vfp_concerns(dirfd, path) &&           \
		    moved_link(dirfd, path, out, size, &result))             \
			return result;                                       \
		result = vfp.next.name                                       \
				 ? vfp.next.name hand_on                     \
				 : read_link(dirfd, path, out,               \
					     size < (room) ? size : (room)); \
		return shown(dirfd, path, out, size, result);                \
	}

READLINK(readlink, (const char *path, char *out, size_t size), AT_FDCWD,
	 SIZE_MAX, (path, out, size))
READLINK(readlinkat, (int dirfd, const char *path, char *out, size_t size),
	 dirfd, SIZE_MAX, (dirfd, path, out, size))
/* What fortified programs call: `room` is how much is behind `out`. */
READLINK(__readlink_chk,
	 (const char *path, char *out, size_t size, size_t room), AT_FDCWD,
	 room, (path, out, size, room))
READLINK(__readlinkat_chk,
	 (int dirfd, const char *path, char *out, size_t size, size_t room),
	 dirfd, room, (dirfd, path, out, size, room))

/* --- realpath() --- */

static char *not_there(void)
{
	errno = ENOSYS;
	return NULL;
}

static char *stripped(char *result)
{
	vfp_path_strip(result);
	return result;
}

static char *real_path(const char *path, char *resolved)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		path = place->real;
	return vfp.next.realpath ? stripped(vfp.next.realpath(path, resolved))
				 : not_there();
}

VFP_EXPORT char *realpath(const char *restrict path, char *restrict resolved)
{
	return real_path(path, resolved);
}

VFP_EXPORT char *__realpath_chk(const char *restrict path,
				char *restrict resolved, size_t room)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		path = place->real;
	return vfp.next.__realpath_chk
		       ? stripped(vfp.next.__realpath_chk(path, resolved, room))
		       : not_there();
}

VFP_EXPORT char *canonicalize_file_name(const char *path)
{
	return real_path(path, NULL);
}

/* --- the working directory --- */

VFP_EXPORT int chdir(const char *path)
{
	VFP_PLACE(place);

	if (vfp_moved(AT_FDCWD, path, &place))
		path = place->real;
	vfp_path_moved();
	int result = VFP_NEXT(chdir, SYS_chdir, path);

	vfp_path_moved(); /* another thread may have looked in between */
	return result;
}

VFP_EXPORT int fchdir(int fd)
{
	int result = VFP_NEXT(fchdir, SYS_fchdir, fd);

	vfp_path_moved();
	return result;
}

static char *working_directory(char *out, size_t size)
{
	if (!vfp_init() || !vfp.active)
		return vfp.next.getcwd ? vfp.next.getcwd(out, size)
				       : not_there();
	char name[VFP_PATH_MAX];

	/* It may fit although the tree's own name would not. */
	if (size && vfp_sys2(SYS_getcwd, name, sizeof(name)) > 0 &&
	    vfp_path_virtual(name)) {
		const char *path = vfp_path_virtual(name);

		if (strlen(path) >= size) {
			errno = ERANGE;
			return NULL;
		}
		if (!out)
			out = malloc(size);
		if (!out ||
		    vfp_result(vfp_copy_out(out, path, strlen(path) + 1)))
			return NULL;
		return out;
	}
	return vfp.next.getcwd ? stripped(vfp.next.getcwd(out, size))
			       : not_there();
}

VFP_EXPORT char *getcwd(char *out, size_t size)
{
	return working_directory(out, size);
}

VFP_EXPORT char *__getcwd_chk(char *out, size_t size, size_t room)
{
	if (size <= room)
		return working_directory(out, size);
	return vfp.next.__getcwd_chk ? vfp.next.__getcwd_chk(out, size, room)
				     : not_there();
}

VFP_EXPORT char *get_current_dir_name(void)
{
	vfp_init();
	return vfp.next.get_current_dir_name
		       ? stripped(vfp.next.get_current_dir_name())
		       : not_there();
}
