/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Which pages of a memfd are there. A page that was never written is a hole:
 * it reads as zeros, and to read it through a mapping allocates it. So whoever
 * looks at all of a guest's memory asks here first.
 *
 * The answer is as old as the question. A page that is written meanwhile is
 * dirty, and will be looked at again.
 */
#ifndef VFE_HOLES_H
#define VFE_HOLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFE_HOLES_WINDOW 1024

/** A walk, whose questions go upwards; see vfe_holes_begin(). */
struct vfe_holes {
	int fd;
	const char *memory;
	size_t page_size;
	uint64_t hole; /* pages from `hole` to `data` - 1 are holes */
	uint64_t data;
	uint64_t first; /* page of the first byte of `resident` */
	size_t count;
	size_t window; /* pages to ask for next */
	unsigned char resident[VFE_HOLES_WINDOW];
};

/**
 * Begin a walk over the file `fd` that is mapped at `memory`; with fd < 0
 * nothing is a hole.
 */
void vfe_holes_begin(struct vfe_holes *holes, int fd, const void *memory,
		     size_t page_size);

/**
 * Look at the pages from `page` to `end` - 1, which is at least one.
 * @return how many of them, from `page` on, are all holes (`*hole` is true) or
 * all there; more of the same kind may follow.
 */
uint64_t vfe_holes_extent(struct vfe_holes *holes, uint64_t page, uint64_t end,
			  bool *hole);

#endif
