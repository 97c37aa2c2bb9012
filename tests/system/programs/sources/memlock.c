/* SPDX-License-Identifier: MIT */
/*
 * For a machine that lets nobody raise RLIMIT_MEMLOCK (a container without
 * CAP_SYS_RESOURCE): libvirt gives up there before it starts QEMU. Preloaded,
 * this says that it was done; emulated devices lock no memory.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int prlimit(pid_t pid, enum __rlimit_resource what, const struct rlimit *to,
	    struct rlimit *from)
{
	if (what == RLIMIT_MEMLOCK)
		to = NULL;
	return (int)syscall(SYS_prlimit64, pid, what, to, from);
}

int setrlimit(enum __rlimit_resource what, const struct rlimit *to)
{
	return prlimit(0, what, to, NULL);
}

int prlimit64(pid_t pid, enum __rlimit_resource what, const struct rlimit64 *to,
	      struct rlimit64 *from)
{
	return prlimit(pid, what, (const struct rlimit *)to,
		       (struct rlimit *)from);
}

int setrlimit64(enum __rlimit_resource what, const struct rlimit64 *to)
{
	return prlimit(0, what, (const struct rlimit *)to, NULL);
}
