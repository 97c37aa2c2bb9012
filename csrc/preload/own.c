/* SPDX-License-Identifier: MIT */
/**
 * @file own.c
 * Which fds are the library's own.
 */
#include "own.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include "fd_table.h"
#include "sys.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

struct vfp_known vfp_own_connections[VFP_CONNECTIONS];
struct vfp_known vfp_own_service;
struct vfp_known vfp_own_holds[VFP_HOLDS];

/* All of them. */
#define ALL (VFP_CONNECTIONS + 1 + VFP_HOLDS)

static const struct vfp_known *known(unsigned int i)
{
	if (i < VFP_CONNECTIONS)
		return &vfp_own_connections[i];
	return i == VFP_CONNECTIONS ? &vfp_own_service
				    : &vfp_own_holds[i - VFP_CONNECTIONS - 1];
}

void vfp_own(struct vfp_known *known, int fd, uint64_t cookie)
{
	atomic_store(&known->cookie, cookie);
	atomic_store(&known->number, fd + 1);
	vfp_fd_internal(fd);
}

static bool ask_cookie(int fd, uint64_t *cookie)
{
	int size = sizeof(*cookie);

	return !vfp_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, cookie,
			 &size);
}

uint64_t vfp_cookie(int fd)
{
	uint64_t cookie = 0;

	ask_cookie(fd, &cookie);
	return cookie;
}

bool vfp_still_there(int fd, uint64_t cookie)
{
	uint64_t now = 0;

	return ask_cookie(fd, &now) && now == cookie;
}

int vfp_high_copy(int fd)
{
	struct rlimit limit = { 1024, 1024 };
	long high;

	vfp_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
	high = limit.rlim_cur < 1024 ? (long)limit.rlim_cur : 1024;
	high = high > 256 ? high - 80 : high / 2;
	return (int)vfp_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, high);
}

int vfp_own_number(const struct vfp_known *known)
{
	int fd = atomic_load(&known->number) - 1;

	return fd >= 0 && vfp_still_there(fd, atomic_load(&known->cookie)) ? fd
									   : -1;
}

bool vfp_own_is(int fd)
{
	for (unsigned int i = 0; i < ALL; i++)
		if (atomic_load(&known(i)->number) == fd + 1 &&
		    vfp_own_number(known(i)) == fd)
			return true;
	return false;
}

uint64_t vfp_own_next(uint64_t first)
{
	uint64_t next = UINT64_MAX;

	for (unsigned int i = 0; i < ALL; i++) {
		int number = atomic_load(&known(i)->number);

		if (number && (uint64_t)number - 1 >= first &&
		    (uint64_t)number - 1 < next &&
		    vfp_own_number(known(i)) == number - 1)
			next = (uint64_t)number - 1;
	}
	return next;
}
