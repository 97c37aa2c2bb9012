/* SPDX-License-Identifier: MIT */
/**
 * @file attribute.c
 * Reading and writing live files of the tree, as calls to the daemon.
 */
#include "attribute.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "call.h"
#include "fd_table.h"
#include "holds.h"
#include "path.h"
#include "sys.h"

#define MOST_WRITTEN 4096 /* kernfs_fop_write_iter(): a page */
#define MOST_READ    4096

bool vfp_is_attribute(int fd)
{
	struct stat status;

	if (!vfp.root_size || vfp_sys2(SYS_fstat, fd, &status) ||
	    !vfp_is_live(&status))
		return false;
	char *real = vfp_scratch_take();
	bool found = real && vfp_path_of_fd(fd, real) && vfp_path_virtual(real);

	vfp_scratch_drop(real);
	return found;
}

/* What a call needs room for, in scratch.h's. */
struct room {
	char real[VFP_PATH_MAX];
	char copy[MOST_WRITTEN];
};
_Static_assert(sizeof(struct room) <= VFP_SCRATCH_SIZE, "one piece");

/* The name of the file behind an fd that can be used so: 0, -EBADF if it was
 * not opened for that, -ENODEV if it is gone. */
static int name_of(int fd, char *real, int unusable)
{
	long flags = vfp_sys2(SYS_fcntl, fd, F_GETFL);

	if (flags < 0 || flags & O_PATH || (flags & O_ACCMODE) == unusable)
		return -EBADF;
	return vfp_path_of_fd(fd, real) && vfp_path_virtual(real) ? 0 : -ENODEV;
}

/* What has been removed: its name ends so in /proc. */
static bool is_deleted(const char *real)
{
	const char *end = strstr(real, " (deleted)");

	return end && !end[10];
}

/* The offset of an access: where the file's position is, unless it is given. */
static off_t begin(int fd, off_t offset)
{
	return offset == VFP_AT_POSITION ? vfp_sys3(SYS_lseek, fd, 0, SEEK_CUR)
					 : offset;
}

static void end(int fd, off_t offset, off_t start, int64_t done)
{
	if (offset == VFP_AT_POSITION && done > 0)
		vfp_sys3(SYS_lseek, fd, start + done, SEEK_SET);
}

static int64_t read_by(char *real, int fd, void *data, size_t size,
		       off_t offset)
{
	int64_t result = name_of(fd, real, O_WRONLY);
	off_t start = begin(fd, offset);

	if (!result && start < 0)
		result = offset < 0 && offset != VFP_AT_POSITION ? -EINVAL
								 : start;
	if (!result && is_deleted(real))
		result = -ENODEV;
	if (result || !size)
		return result;
	if (size > MOST_READ)
		size = MOST_READ;
	const char *path = vfp_path_virtual(real);
	struct vfp_call call = {
		.msg = { .type = VFIOEMU_ATTR_READ,
			 .arg = { (uint64_t)start, size } },
		.out = path,
		.out_size = strlen(path),
		.in = data,
		.in_size = size,
		.token = -1,
		.out_fd = -1,
		.in_fd = -1,
	};

	result = vfp_call(&call);
	if (result > (int64_t)size)
		result = -EIO;
	end(fd, offset, start, result);
	return result;
}

ssize_t vfp_attribute_read(int fd, void *data, size_t size, off_t offset)
{
	struct room *room = vfp_scratch_take();
	int64_t result =
		room ? read_by(room->real, fd, data, size, offset) : -ENOMEM;

	vfp_scratch_drop(room);
	return vfp_result(result);
}

void vfp_attribute_opened(int fd, const char *real)
{
	const char *name = strrchr(real, '/');
	int saved = errno;
	char byte;

	vfp_fd_appears(fd);
	/* What libc reads by itself is the file's: a read renews that. */
	if (name && !strcmp(name, "/config") && vfp_is_attribute(fd))
		vfp_attribute_read(fd, &byte, 1, 0);
	errno = saved;
}

/* The system's own file of that name: it is about a device of the machine. */
static int64_t write_elsewhere(const char *path, const char *data, size_t size)
{
	long fd = vfp_sys4(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);

	if (fd < 0)
		return fd;
	long result = vfp_sys3(SYS_write, fd, data, size);

	vfp_sys1(SYS_close, fd);
	return result;
}

/* `data` is ours; `message` has room for a path and it. */
static int64_t ask(char *message, const char *path, const char *data,
		   size_t size, off_t offset)
{
	size_t length = strlen(path) + 1;
	struct vfp_call call = {
		.msg = { .type = VFIOEMU_ATTR_WRITE,
			 .arg = { (uint64_t)offset, size } },
		.out = message,
		.out_size = length + size,
		.token = -1,
		.out_fd = -1,
		.in_fd = -1,
	};

	memcpy(message, path, length);
	memcpy(message + length, data, size);
	int64_t result = vfp_call(&call);

	if (call.flags & VFIOEMU_F_ELSEWHERE)
		return write_elsewhere(path, data, size);
	return result > (int64_t)size ? -EIO : result;
}

static int64_t hand_on(const char *path, const char *data, size_t size,
		       off_t offset)
{
	char *message = vfp_scratch_take();
	int64_t result =
		message ? ask(message, path, data, size, offset) : -ENOMEM;

	vfp_scratch_drop(message);
	return result;
}

static int64_t write_by(struct room *room, int fd, const void *data,
			size_t size, off_t offset)
{
	int64_t result = name_of(fd, room->real, O_RDONLY);
	off_t start = begin(fd, offset);

	if (!result && start < 0)
		result = offset < 0 && offset != VFP_AT_POSITION ? -EINVAL
								 : start;
	if (!result && is_deleted(room->real))
		result = -ENODEV;
	if (result || !size)
		return result;
	if (size > sizeof(room->copy))
		size = sizeof(room->copy);
	result = vfp_copy_in(room->copy, data, size);
	if (result)
		return result;
	const char *path = vfp_path_virtual(room->real);

	result = hand_on(path, room->copy, size, start);
	/* The position of a file of text says what libc has written to it. */
	if (vfp_path_is_binary(path))
		end(fd, offset, start, result);
	return result;
}

ssize_t vfp_attribute_write(int fd, const void *data, size_t size, off_t offset)
{
	struct room *room = vfp_scratch_take();
	int64_t result =
		room ? write_by(room, fd, data, size, offset) : -ENOMEM;

	vfp_scratch_drop(room);
	return vfp_result(result);
}

/* Map a file in the place of what may be a device's memory. */
static long map(int fd, void *address, size_t size, int prot, int flags,
		uint64_t start)
{
	struct vfp_remap remap = { 0 };
	long result;

	if (flags & MAP_FIXED)
		vfp_hold_begin(&remap, address, size);
	result = vfp_sys6(SYS_mmap, VFP_ARG(address), VFP_ARG(size), prot,
			  flags, fd, (long)start);
	if (result >= 0)
		vfp_hold_cut(&remap, address, size);
	vfp_hold_end(&remap);
	return result;
}

/* do_mmap(): what is shared is written to by who may write to the file. */
static bool may_map(int fd, int prot, int flags)
{
	return (flags & MAP_TYPE) == MAP_PRIVATE || !(prot & PROT_WRITE) ||
	       (vfp_sys2(SYS_fcntl, fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
}

void *vfp_attribute_mmap(int fd, void *address, size_t size, int prot,
			 int flags, off_t offset)
{
	char real[VFP_PATH_MAX];
	int64_t result = name_of(fd, real, O_WRONLY);
	const char *path = result ? NULL : vfp_path_virtual(real);

	if (!path)
		return (void *)vfp_result(result == -EBADF ? -EACCES : -ENODEV);
	if (!may_map(fd, prot, flags))
		return (void *)vfp_result(-EACCES);
	struct vfp_call call = {
		.msg = { .type = VFIOEMU_ATTR_MMAP,
			 .arg = { (uint64_t)offset, size } },
		.out = path,
		.out_size = strlen(path),
		.token = -1,
		.out_fd = -1,
		.wants_fd = true,
		.in_fd = -1,
	};

	result = vfp_call(&call);
	if (VFP_RARE(!result && call.in_more))
		vfp_say("/%s holds registers, but a mapping of it is only "
			"memory: what is stored there reaches none of them; "
			"pread() and pwrite() on the VFIO device's fd do",
			path + (*path == '/'));
	if (result >= 0)
		result = call.in_fd < 0 ? -ENFILE
					: map(call.in_fd, address, size, prot,
					      flags, call.in_start);
	if (call.in_fd >= 0)
		vfp_sys1(SYS_close, call.in_fd);
	return (void *)vfp_result(result);
}

/* --- what libc has written --- */

/* Open the file behind an fd that can only be written. */
static long reopen(const char *real)
{
	return vfp_sys4(SYS_openat, AT_FDCWD, real, O_RDONLY | O_CLOEXEC, 0);
}

static int64_t commit(struct room *room, int fd)
{
	long flags = vfp_sys2(SYS_fcntl, fd, F_GETFL);
	long size = vfp_sys3(SYS_lseek, fd, 0, SEEK_CUR);

	/* Otherwise the position is also moved by reading. */
	if (flags < 0 || (flags & O_ACCMODE) != O_WRONLY || size <= 0 ||
	    name_of(fd, room->real, O_RDONLY) ||
	    vfp_path_is_binary(vfp_path_virtual(room->real)))
		return 0;
	if (size > (long)sizeof(room->copy))
		size = sizeof(room->copy);
	long own = reopen(room->real);

	if (own < 0)
		return own;
	size = vfp_sys4(SYS_pread64, own, room->copy, size, 0);
	vfp_sys1(SYS_close, own);
	vfp_sys3(SYS_lseek, fd, 0, SEEK_SET);
	if (size <= 0)
		return size ? size : -EIO;
	return hand_on(vfp_path_virtual(room->real), room->copy, (size_t)size,
		       0);
}

int vfp_attribute_commit(int fd)
{
	struct room *room = vfp_scratch_take();
	int64_t result = room ? commit(room, fd) : -ENOMEM;

	vfp_scratch_drop(room);
	return result < 0 ? (int)vfp_result(result) : 0;
}
