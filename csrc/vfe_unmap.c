/* SPDX-License-Identifier: MIT */
#include "vfe_unmap.h"

#include <errno.h>
#include <sys/mman.h>

/* A few milliseconds if all pages are there, and a millisecond for each 16 GiB
 * if none is. */
#define SLICE ((size_t)32 << 20)

int vfe_unmap(void *start, size_t size)
{
	char *at = start;

	while (size) {
		size_t now = size < SLICE ? size : SLICE;

		if (munmap(at, now))
			return errno;
		at += now;
		size -= now;
	}
	return 0;
}
