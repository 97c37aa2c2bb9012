/* SPDX-License-Identifier: MIT */
/**
 * @file attribute.h
 * Live files of the tree: those that the daemon answers (daemon/attributes.py).
 *
 * An fd of one is an fd of a real file, with a position that the kernel keeps;
 * what is read from it and written to it are calls. Only what libc does inside
 * itself (a stream on an fd that was inherited or redirected) reaches the file:
 * libc_flush.c hands that on when the stream is flushed.
 */
#ifndef VFP_ATTRIBUTE_H
#define VFP_ATTRIBUTE_H

#include "preload.h"

#define VFP_AT_POSITION ((off_t) - 1) /* no offset: the file's position */

/** Whether a file of the tree is one, by its status. */
static inline bool vfp_is_live(const struct stat *status)
{
	return S_ISREG(status->st_mode) && status->st_mode & S_ISVTX;
}

/** Whether an fd is one. */
VFP_HIDDEN bool vfp_is_attribute(int fd);

/** A file of the tree, which may be one, has been opened. */
VFP_HIDDEN void vfp_attribute_opened(int fd, const char *real);

/* As libc's functions, for an fd that is one. */
VFP_HIDDEN ssize_t vfp_attribute_read(int fd, void *data, size_t size,
				      off_t offset);
VFP_HIDDEN ssize_t vfp_attribute_write(int fd, const void *data, size_t size,
				       off_t offset);
VFP_HIDDEN void *vfp_attribute_mmap(int fd, void *address, size_t size,
				    int prot, int flags, off_t offset);

/**
 * Hand on what libc itself has written to the file behind an fd, if anything:
 * 0, or -1 and errno.
 */
VFP_HIDDEN int vfp_attribute_commit(int fd);

#endif
