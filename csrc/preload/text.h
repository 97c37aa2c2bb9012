/* SPDX-License-Identifier: MIT */
/**
 * @file text.h
 * Names that a program gives us: bytes of its memory, which need not be there.
 * The kernel says EFAULT of such a name, so nothing here may raise a signal.
 */
#ifndef VFP_PRELOAD_TEXT_H
#define VFP_PRELOAD_TEXT_H

#include "preload.h"

/** A name that is read byte by byte. */
struct vfp_text {
	const char *at;	 /* the next byte */
	uintptr_t known; /* up to here they can be read */
};

static inline struct vfp_text vfp_text(const char *name)
{
	return (struct vfp_text){ name, 0 };
}

/** Whether the next byte can be read: asks the kernel, if need be. */
VFP_HIDDEN bool vfp_text_more(struct vfp_text *text);

/** The next byte, which stays the next one; -1 if it cannot be read. */
static inline int vfp_peek(struct vfp_text *text)
{
	if ((uintptr_t)text->at >= text->known && !vfp_text_more(text))
		return -1;
	return (unsigned char)*text->at;
}

/** Go on with another name: what is known of a page stays known. */
static inline void vfp_text_go(struct vfp_text *text, const void *name)
{
	if (((uintptr_t)name ^ (text->known - 1)) >= 4096)
		text->known = 0;
	text->at = (const char *)name;
}

/** Whether a byte of the program's can be read, and with it its page. */
VFP_HIDDEN bool vfp_is_readable(uintptr_t address);

/**
 * Copy a name with its NUL: how long it is without, or a negative errno, which
 * is the kernel's for it: EFAULT, or ENAMETOOLONG if it has VFP_PATH_MAX bytes
 * or more.
 */
VFP_HIDDEN long vfp_text_copy(char *out, const char *name);

/** Find the program's constants, whose names need no question. */
VFP_HIDDEN void vfp_text_init(void);
/** What is mapped there changes: are there constants? Then they are asked
 * about from now on. */
VFP_HIDDEN void vfp_text_goes(uintptr_t address, size_t size);

#endif
