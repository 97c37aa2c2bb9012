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

struct vfe_known vfe_own_connections[VFE_CONNECTIONS];
struct vfe_known vfe_own_service;
struct vfe_known vfe_own_holds[VFE_HOLDS];

/* All of them. */
#define ALL (VFE_CONNECTIONS + 1 + VFE_HOLDS)

static const struct vfe_known *known(unsigned int i)
{
	if (i < VFE_CONNECTIONS)
		return &vfe_own_connections[i];
	return i == VFE_CONNECTIONS ? &vfe_own_service
				    : &vfe_own_holds[i - VFE_CONNECTIONS - 1];
}

void vfe_own(struct vfe_known *known, int fd, uint64_t cookie)
{
	atomic_store(&known->cookie, cookie);
	atomic_store(&known->number, fd + 1);
	vfe_fd_internal(fd);
}

static bool ask_cookie(int fd, uint64_t *cookie)
{
	int size = sizeof(*cookie);

	return !vfe_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, cookie,
			 &size);
}

uint64_t vfe_cookie(int fd)
{
	uint64_t cookie = 0;

	ask_cookie(fd, &cookie);
	return cookie;
}

bool vfe_still_there(int fd, uint64_t cookie)
{
	uint64_t now = 0;

	return ask_cookie(fd, &now) && now == cookie;
}

int vfe_high_copy(int fd)
{
	struct rlimit limit = { 1024, 1024 };
	long high;

	vfe_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
	high = limit.rlim_cur < 1024 ? (long)limit.rlim_cur : 1024;
	high = high > 256 ? high - 80 : high / 2;
	return (int)vfe_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, high);
}

int vfe_own_number(const struct vfe_known *known)
{
	int fd = atomic_load(&known->number) - 1;

	return fd >= 0 && vfe_still_there(fd, atomic_load(&known->cookie)) ? fd
									   : -1;
}

bool vfe_own_is(int fd)
{
	for (unsigned int i = 0; i < ALL; i++)
		if (atomic_load(&known(i)->number) == fd + 1 &&
		    vfe_own_number(known(i)) == fd)
			return true;
	return false;
}

uint64_t vfe_own_next(uint64_t first)
{
	uint64_t next = UINT64_MAX;

	for (unsigned int i = 0; i < ALL; i++) {
		int number = atomic_load(&known(i)->number);

		if (number && (uint64_t)number - 1 >= first &&
		    (uint64_t)number - 1 < next &&
		    vfe_own_number(known(i)) == number - 1)
			next = (uint64_t)number - 1;
	}
	return next;
}
