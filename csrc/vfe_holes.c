/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vfe_holes.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of a window; less makes a system call for too few pages. */
#define WINDOW_MIN 16

void vfe_holes_begin(struct vfe_holes *holes, int fd, const void *memory,
		     size_t page_size)
{
	holes->fd = fd;
	holes->memory = memory;
	holes->page_size = page_size;
	holes->hole = holes->data = 0;
	holes->first = holes->count = 0;
	holes->window = WINDOW_MIN;
}

/*
 * SEEK_HOLE has no end: from the first page of a gibibyte that is all there it
 * looks at all of it, to answer for one page. mincore() looks at what it is
 * asked for. It knows the page cache only: of a page that is not in it
 * SEEK_DATA has to say whether it is a hole, or swapped out.
 */
static void look(struct vfe_holes *holes, uint64_t page, uint64_t end)
{
	size_t count = holes->window;
	void *from =
		(void *)(uintptr_t)(holes->memory + page * holes->page_size);

	if (count > end - page)
		count = (size_t)(end - page);
	/* It fails where the system's pages are larger than the guest's. */
	if (mincore(from, count * holes->page_size, holes->resident))
		memset(holes->resident, 0, count);
	holes->first = page;
	holes->count = count;
	/* Where all is there, there is more. */
	if (!memchr(holes->resident, 0, count)) {
		if (holes->window < VFE_HOLES_WINDOW)
			holes->window *= 2;
	} else {
		holes->window = WINDOW_MIN;
	}
}

/* @return the first page from `page` on that is there. */
static uint64_t next_data(struct vfe_holes *holes, uint64_t page)
{
	off_t at =
		lseek(holes->fd, (off_t)(page * holes->page_size), SEEK_DATA);

	if (at >= 0)
		return (uint64_t)at / holes->page_size;
	if (errno == ENXIO)
		return UINT64_MAX;
	holes->fd = -1; /* a file that does not know: all of it is there */
	return page;
}

uint64_t vfe_holes_extent(struct vfe_holes *holes, uint64_t page, uint64_t end,
			  bool *hole)
{
	uint64_t count = 0;

	*hole = false;
	if (holes->fd < 0)
		return end - page;
	if (page < holes->hole || page >= holes->data) {
		size_t at;

		if (page < holes->first || page >= holes->first + holes->count)
			look(holes, page, end);
		at = (size_t)(page - holes->first);
		while (at + count < holes->count && page + count < end &&
		       holes->resident[at + count] & 1)
			count++;
		if (count)
			return count;
		holes->hole = page;
		holes->data = next_data(holes, page);
		if (holes->data == page)
			return 1;
	}
	*hole = true;
	return (holes->data < end ? holes->data : end) - page;
}
