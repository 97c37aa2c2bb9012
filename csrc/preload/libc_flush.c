/* SPDX-License-Identifier: MIT */
/**
 * @file libc_flush.c
 * Overridden libc functions: those that write out what a stream has. libc
 * writes without any function that could be overridden; if a live file of the
 * tree was behind the stream (a shell's `echo 1 >reset`), that is handed on
 * now, and this is where a program learns that it was refused.
 *
 * Streams that fopen() makes on such files are our own altogether
 * (libc_stream.c).
 */
#include <errno.h>
#include <stdio.h>

#include "attribute.h"
#include "path.h"
#include "sys.h"

/* Whether a live file is behind a stream of libc's own. */
static bool is_behind(FILE *stream, int *fd)
{
	struct vfp_file file;

	if (!vfp.active || !stream)
		return false;
	*fd = stream->_fileno;
	return *fd >= 0 && vfp_emulated(*fd, &file) &&
	       file.kind == VFP_ATTRIBUTE;
}

static int commit(FILE *stream, int fd)
{
	int result = vfp_attribute_commit(fd);

	if (result)
		stream->_flags |= _IO_ERR_SEEN;
	return result;
}

static int not_there(void)
{
	errno = ENOSYS;
	return EOF;
}

VFP_EXPORT int fflush(FILE *stream)
{
	int fd, result;

	vfp_init();
	if (!vfp.next.fflush)
		return not_there();
	result = vfp.next.fflush(stream);
	if (VFP_RARE(is_behind(stream ? stream : stdout, &fd)) &&
	    commit(stream ? stream : stdout, fd))
		result = EOF;
	return result;
}

VFP_EXPORT int fclose(FILE *stream)
{
	int fd, failed = 0;

	vfp_init();
	if (!vfp.next.fclose)
		return not_there();
	if (VFP_RARE(is_behind(stream, &fd)) && vfp.next.fflush &&
	    !vfp.next.fflush(stream) && commit(stream, fd))
		failed = errno;
	int result = vfp.next.fclose(stream);

	if (failed) {
		errno = failed;
		result = EOF;
	}
	return result;
}

/* Streams that nobody closes are flushed by libc alone, after this. */
__attribute__((destructor)) static void ends(void)
{
	int fd;

	if (is_behind(stdout, &fd) && vfp.next.fflush &&
	    !vfp.next.fflush(stdout))
		commit(stdout, fd);
}
