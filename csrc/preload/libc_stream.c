/* SPDX-License-Identifier: MIT */
/**
 * @file libc_stream.c
 * Overridden libc functions: streams on fds. libc reads and writes with system
 * calls of its own, which would reach the socket that an emulated fd is. So a
 * stream on one is made with fopencookie(), and fileno() told what its fd is.
 */
#include <errno.h>
#include <stdio.h>

#include "path.h"
#include "sys.h"

#define STREAMS 64

/** A stream on an emulated file. */
struct stream {
	_Atomic(FILE *) file; /* NULL: a free place */
	int fd;
};
static struct stream streams[STREAMS];
static atomic_int used;

static int fd_of(const void *cookie)
{
	return ((const struct stream *)cookie)->fd;
}

static ssize_t read_stream(void *cookie, char *data, size_t size)
{
	struct vfp_file file;

	return vfp_emulated(fd_of(cookie), &file)
		       ? vfp_read(&file, data, size)
		       : vfp_result(
				 vfp_sys3(SYS_read, fd_of(cookie), data, size));
}

/* fopencookie() takes no negative result from it. */
static ssize_t write_stream(void *cookie, const char *data, size_t size)
{
	struct vfp_file file;
	ssize_t done = vfp_emulated(fd_of(cookie), &file)
			       ? vfp_write(&file, data, size)
			       : vfp_result(vfp_sys3(SYS_write, fd_of(cookie),
						     data, size));

	return done < 0 ? 0 : done;
}

static int seek_stream(void *cookie, off64_t *offset, int whence)
{
	long place =
		vfp_result(vfp_sys3(SYS_lseek, fd_of(cookie), *offset, whence));

	if (place < 0)
		return -1;
	*offset = place;
	return 0;
}

static int close_stream(void *cookie)
{
	struct stream *stream = cookie;
	int fd = stream->fd;

	atomic_store(&stream->file, NULL);
	atomic_fetch_sub(&used, 1);
	return (int)vfp_result(vfp_sys1(SYS_close, fd));
}

/* Between being taken and being known it is of nobody. */
static struct stream *take(void)
{
	static FILE *const nobody = (FILE *)-1;

	for (size_t i = 0; i < STREAMS; i++) {
		FILE *none = NULL;

		if (atomic_compare_exchange_strong(&streams[i].file, &none,
						   nobody))
			return &streams[i];
	}
	return NULL;
}

FILE *vfp_stream(int fd, const char *mode)
{
	struct stream *stream = take();

	if (!stream) {
		errno = EMFILE;
		return NULL;
	}
	stream->fd = fd;
	FILE *file = fopencookie(stream, mode,
				 (cookie_io_functions_t){
					 .read = read_stream,
					 .write = write_stream,
					 .seek = seek_stream,
					 .close = close_stream,
				 });

	if (file)
		atomic_fetch_add(&used, 1);
	atomic_store(&stream->file, file);
	return file;
}

VFP_EXPORT FILE *fdopen(int fd, const char *mode)
{
	struct vfp_file file;

	if (vfp_emulated(fd, &file) && file.kind != VFP_OTHER)
		return vfp_stream(fd, mode);
	if (vfp.next.fdopen)
		return vfp.next.fdopen(fd, mode);
	errno = ENOSYS;
	return NULL;
}

/* The fd of a stream of ours; -1: it is none. */
static int known_fd(FILE *file)
{
	if (!atomic_load_explicit(&used, memory_order_acquire))
		return -1;
	for (size_t i = 0; i < STREAMS; i++)
		if (atomic_load_explicit(&streams[i].file,
					 memory_order_acquire) == file)
			return streams[i].fd;
	return -1;
}

#define FILENO(name)                                            \
	VFP_EXPORT int name(FILE *file)                         \
	{                                                       \
		int fd = vfp_init() ? known_fd(file) : -1;      \
                                                                \
		if (fd >= 0)                                    \
			return fd;                              \
		return vfp.next.name ? vfp.next.name(file)      \
				     : (int)vfp_result(-EBADF); \
	}

FILENO(fileno)
FILENO(fileno_unlocked)
