/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "floor.h"

#include <err.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	MESSAGE = 48, /* sizeof(struct vfioemu_msg) */
};

void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "CPU %d", cpu);
}

int floor_serve(int cpu)
{
	char message[MESSAGE];
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
		err(1, "socketpair");
	switch (fork()) {
	case -1:
		err(1, "fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		run_on(cpu);
		for (;;) {
			ssize_t size =
				recv(ends[1], message, sizeof(message), 0);
			if (size <= 0)
				_exit(0);
			send(ends[1], message, (size_t)size, 0);
		}
	default:
		close(ends[1]);
	}
	return ends[0];
}

void floor_call(int sock)
{
	char message[MESSAGE] = { 0 };

	if (send(sock, message, sizeof(message), 0) < 0 ||
	    recv(sock, message, sizeof(message), 0) <= 0)
		err(1, "floor");
}
