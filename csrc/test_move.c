/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Pages through a socket: they arrive where they belong, summed; and what a
 * peer that is slow, or gone, looks like.
 */
#include "vfe_move.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vfe_pages.h"

#include "test_util.h"

#define PAGE   4096
#define NPAGES 3000

static const char head[] = "a head";
static char *from;
static char *to;
static struct vfe_run runs[NPAGES / 2];
static size_t nruns;

static void make_runs(uint64_t step)
{
	nruns = 0;
	for (uint64_t page = 0; page + step < NPAGES; page += step + 1)
		runs[nruns++] = (struct vfe_run){ page, step };
}

static void *push(void *socket)
{
	uint64_t cursor[3] = { 0, 0, 0 };
	int status;

	do {
		status = vfe_push(*(int *)socket, head, sizeof(head), from,
				  PAGE, runs, nruns, cursor, 1);
	} while (status == EAGAIN);
	CHECK(status == 0 && cursor[1] == nruns && cursor[2] == 0);
	return NULL;
}

static void test_pages_arrive(uint64_t step)
{
	uint64_t *sums = get_memory(NPAGES * sizeof(*sums));
	uint64_t cursor[3] = { 0, 0, 0 };
	char got[sizeof(head)];
	int sockets[2];
	pthread_t thread;
	int status;

	make_runs(step);
	memset(to, 0, (size_t)NPAGES * PAGE);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	CHECK(!pthread_create(&thread, NULL, push, &sockets[0]));
	CHECK(recv(sockets[1], got, sizeof(got), MSG_WAITALL) == sizeof(got));
	CHECK(!memcmp(got, head, sizeof(head)));
	do {
		status = vfe_pull(sockets[1], to, PAGE, runs, nruns, cursor,
				  sums, 1);
	} while (status == EAGAIN);
	CHECK(status == 0 && cursor[0] == nruns * step * PAGE);
	CHECK(!pthread_join(thread, NULL));
	for (uint64_t page = 0; page < NPAGES; page++) {
		bool sent =
			page % (step + 1) < step && page / (step + 1) < nruns;

		for (size_t at = 0; at < PAGE; at++)
			CHECK(to[page * PAGE + at] ==
			      (sent ? from[page * PAGE + at] : 0));
		CHECK(sums[page] ==
		      (sent ? vfe_hash(from + page * PAGE, PAGE) : 0));
	}
	close(sockets[0]);
	close(sockets[1]);
	free(sums);
}

static void test_peer_that_is_slow_or_gone(void)
{
	uint64_t sums[NPAGES];
	uint64_t out[3] = { 0, 0, 0 };
	uint64_t in[3] = { 0, 0, 0 };
	int sockets[2];

	make_runs(1);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	CHECK(vfe_pull(sockets[1], to, PAGE, runs, nruns, in, sums, 0) ==
	      EAGAIN);
	CHECK(vfe_push(sockets[0], NULL, 0, from, PAGE, runs, nruns, out, 1) ==
	      EAGAIN);
	CHECK(out[0] > 0 && out[0] < nruns * PAGE);
	CHECK(vfe_pull(sockets[1], to, PAGE, runs, nruns, in, sums, 1) ==
	      EAGAIN);
	CHECK(in[0] > 0 && in[0] <= out[0]);
	close(sockets[0]);
	in[1] = in[2] = 0;
	while (vfe_pull(sockets[1], to, PAGE, runs, nruns, in, sums, 1) ==
	       EAGAIN)
		;
	CHECK(vfe_pull(sockets[1], to, PAGE, runs, nruns, in, sums, 1) ==
	      EPIPE);
	CHECK(vfe_push(sockets[0], NULL, 0, from, PAGE, runs, nruns, out, 1) ==
	      EBADF);
	close(sockets[1]);
}

int main(void)
{
	from = get_memory((size_t)NPAGES * PAGE);
	to = get_memory((size_t)NPAGES * PAGE);
	for (size_t i = 0; i < (size_t)NPAGES * PAGE; i++)
		from[i] = (char)(i * 31 + i / PAGE);
	test_pages_arrive(1);
	test_pages_arrive(7);
	test_pages_arrive(NPAGES - 1);
	test_peer_that_is_slow_or_gone();
	free(from);
	free(to);
	return 0;
}
