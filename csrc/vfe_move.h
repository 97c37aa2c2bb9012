/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Pages between memory and a nonblocking stream socket, many runs in a call.
 *
 * `cursor` says how far a frame has got, and is all zeros in the beginning:
 * cursor[0] bytes have been moved, cursor[1] runs are done, and cursor[2]
 * bytes of the next one.
 */
#ifndef VFE_MOVE_H
#define VFE_MOVE_H

#include <stddef.h>
#include <stdint.h>

#include "vfe_bitmap.h"

/**
 * Send `head` (head_size bytes), and after it the pages of `runs`.
 * @return 0 when all is sent; EAGAIN when `timeout` milliseconds are over; or
 * what sendmsg() has failed with.
 */
int vfe_push(int fd, const void *head, size_t head_size, const void *memory,
	     size_t page_size, const struct vfe_run *runs, size_t nruns,
	     uint64_t *cursor, int timeout);

/**
 * Receive the pages of `runs`, and write the sum of each, when it is whole,
 * into sums[page].
 * @return as vfe_push(); EPIPE if the stream has ended.
 */
int vfe_pull(int fd, void *memory, size_t page_size, const struct vfe_run *runs,
	     size_t nruns, uint64_t *cursor, uint64_t *sums, int timeout);

/**
 * Make holes of the pages of `runs`, which ascend, in a file: what is a hole
 * already is not touched.
 * @return 0, or what fallocate() has failed with.
 */
int vfe_punch(int fd, size_t page_size, const struct vfe_run *runs,
	      size_t nruns);

#endif
