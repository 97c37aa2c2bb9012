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
	struct vfe_file file;

	if (!vfe.active || !stream)
		return false;
	*fd = stream->_fileno;
	return *fd >= 0 && vfe_emulated(*fd, &file) &&
	       file.kind == VFE_ATTRIBUTE;
}

static int commit(FILE *stream, int fd)
{
	int result = vfe_attribute_commit(fd);

	if (result)
		stream->_flags |= _IO_ERR_SEEN;
	return result;
}

static int not_there(void)
{
	errno = ENOSYS;
	return EOF;
}

VFE_EXPORT int fflush(FILE *stream)
{
	int fd, result;

	vfe_init();
	if (!vfe.next.fflush)
		return not_there();
	result = vfe.next.fflush(stream);
	if (VFE_RARE(is_behind(stream ? stream : stdout, &fd)) &&
	    commit(stream ? stream : stdout, fd))
		result = EOF;
	return result;
}

VFE_EXPORT int fclose(FILE *stream)
{
	int fd, failed = 0;

	vfe_init();
	if (!vfe.next.fclose)
		return not_there();
	if (VFE_RARE(is_behind(stream, &fd)) && vfe.next.fflush &&
	    !vfe.next.fflush(stream) && commit(stream, fd))
		failed = errno;
	int result = vfe.next.fclose(stream);

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

	if (is_behind(stdout, &fd) && vfe.next.fflush &&
	    !vfe.next.fflush(stdout))
		commit(stdout, fd);
}
