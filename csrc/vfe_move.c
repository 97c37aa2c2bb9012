/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vfe_move.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vfe_pages.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

/* Received and summed in one go, so that the sum finds it in the cache. */
#define PULL_BYTES ((size_t)256 << 10)

/* What a frame is made of. */
struct frame {
	const char *head;
	size_t head_size;
	char *memory;
	size_t page_size;
	const struct vfe_run *runs;
	size_t nruns;
	uint64_t *cursor;
};

static size_t add(struct iovec *iov, size_t n, const char *from, size_t size)
{
	iov[n] = (struct iovec){ (void *)(uintptr_t)from, size };
	return n + 1;
}

/* @return how many parts of it, with `most` bytes at most, are to be moved. */
static size_t gather(const struct frame *frame, struct iovec *iov, size_t most)
{
	uint64_t skip = frame->cursor[2];
	size_t n = 0;

	if (frame->cursor[0] < frame->head_size)
		n = add(iov, n, frame->head + frame->cursor[0],
			frame->head_size - (size_t)frame->cursor[0]);
	for (uint64_t run = frame->cursor[1];
	     run < frame->nruns && n < IOV_MAX && most; run++) {
		size_t size =
			(size_t)frame->runs[run].npages * frame->page_size -
			(size_t)skip;
		const char *from = frame->memory +
				   frame->runs[run].first * frame->page_size +
				   skip;

		if (size > most)
			size = most;
		if (size)
			n = add(iov, n, from, size);
		most -= size;
		skip = 0;
	}
	return n;
}

/* Sum the pages that a step of `count` bytes at cursor[1], [2] makes whole. */
static void sum_step(const struct frame *frame, uint64_t count, uint64_t *sums)
{
	uint64_t run = frame->cursor[1];
	uint64_t at = frame->cursor[2];

	while (count) {
		uint64_t size = frame->runs[run].npages * frame->page_size;
		uint64_t to = count < size - at ? at + count : size;
		uint64_t page = at / frame->page_size;
		uint64_t first = frame->runs[run].first + page;
		uint64_t whole = to / frame->page_size - page;

		vfe_page_sums(frame->memory, frame->page_size, first, whole,
			      sums + first);
		count -= to - at;
		at = 0;
		run++;
	}
}

static void advance(struct frame *frame, uint64_t count)
{
	uint64_t *cursor = frame->cursor;

	if (cursor[0] < frame->head_size) {
		uint64_t head = frame->head_size - cursor[0];

		if (head > count)
			head = count;
		cursor[0] += head;
		count -= head;
	}
	cursor[0] += count;
	cursor[2] += count;
	while (cursor[1] < frame->nruns) {
		uint64_t size =
			frame->runs[cursor[1]].npages * frame->page_size;

		if (cursor[2] < size)
			break;
		cursor[2] -= size;
		cursor[1]++;
	}
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* @return 0 when there may be something to do, EAGAIN when time is over. */
static int wait_for(int fd, short events, int64_t until)
{
	struct pollfd poll_fd = { .fd = fd, .events = events };
	int64_t left = until - now();

	if (left <= 0)
		return EAGAIN;
	if (poll(&poll_fd, 1, (int)left) < 0 && errno != EINTR)
		return errno;
	return 0;
}

/*
 * What follows from a step that has moved `count` bytes, or from its errno. A
 * peer that takes byte by byte must not keep us beyond our time either.
 */
static int after(int fd, short events, ssize_t count, int64_t until)
{
	if (count < 0 && errno == EAGAIN)
		return wait_for(fd, events, until);
	if (count < 0 && errno != EINTR)
		return errno;
	return now() >= until ? EAGAIN : 0;
}

int vfe_push(int fd, const void *head, size_t head_size, const void *memory,
	     size_t page_size, const struct vfe_run *runs, size_t nruns,
	     uint64_t *cursor, int timeout)
{
	struct frame frame = { .head = head,
			       .head_size = head_size,
			       .memory = (char *)(uintptr_t)memory,
			       .page_size = page_size,
			       .runs = runs,
			       .nruns = nruns,
			       .cursor = cursor };
	int64_t until = now() + timeout;
	struct iovec iov[IOV_MAX];

	for (;;) {
		struct msghdr message = { .msg_iov = iov };
		ssize_t count;
		int status;

		message.msg_iovlen = gather(&frame, iov, SSIZE_MAX);
		if (!message.msg_iovlen)
			return 0;
		count = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		status = after(fd, POLLOUT, count, until);
		if (count > 0)
			advance(&frame, (uint64_t)count);
		if (status && gather(&frame, iov, 1))
			return status;
	}
}

int vfe_pull(int fd, void *memory, size_t page_size, const struct vfe_run *runs,
	     size_t nruns, uint64_t *cursor, uint64_t *sums, int timeout)
{
	struct frame frame = { .memory = memory,
			       .page_size = page_size,
			       .runs = runs,
			       .nruns = nruns,
			       .cursor = cursor };
	int64_t until = now() + timeout;
	struct iovec iov[IOV_MAX];

	for (;;) {
		struct msghdr message = { .msg_iov = iov };
		ssize_t count;
		int status;

		message.msg_iovlen = gather(&frame, iov, PULL_BYTES);
		if (!message.msg_iovlen)
			return 0;
		count = recvmsg(fd, &message, MSG_DONTWAIT);
		if (!count)
			return EPIPE;
		status = after(fd, POLLIN, count, until);
		if (count > 0) {
			sum_step(&frame, (uint64_t)count, sums);
			advance(&frame, (uint64_t)count);
		}
		if (status && gather(&frame, iov, 1))
			return status;
	}
}

int vfe_punch(int fd, size_t page_size, const struct vfe_run *runs,
	      size_t nruns)
{
	off_t data = 0; /* nothing is there from the last run to here */

	for (size_t i = 0; i < nruns; i++) {
		off_t at = (off_t)(runs[i].first * page_size);
		off_t end = at + (off_t)(runs[i].npages * page_size);

		if (end <= data)
			continue;
		if (at >= data) {
			data = lseek(fd, at, SEEK_DATA);
			if (data < 0 && errno == ENXIO)
				return 0;
			if (data < 0)
				data = at; /* it cannot tell */
		}
		if (data >= end)
			continue;
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      data > at ? data : at,
			      end - (data > at ? data : at)))
			return errno;
		data = end;
	}
	return 0;
}
