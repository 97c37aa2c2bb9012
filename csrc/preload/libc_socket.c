/* SPDX-License-Identifier: MIT */
/**
 * @file libc_socket.c
 * Overridden libc functions: those of sockets. An emulated file is none to the
 * program, whatever the kernel says; and shutdown() of one, which all that have
 * the file share, would end it for all. recvmsg(), which may bring fds, is in
 * libc_fd.c.
 */
#include <sys/socket.h>

#include "fds.h"
#include "sys.h"

#define SOCKET(name, type, arguments, hand_on, by_system_call)    \
	VFP_EXPORT type name arguments                            \
	{                                                         \
		int refused = vfp_no_socket(fd);                  \
                                                                  \
		if (VFP_RARE(refused))                            \
			return (type)vfp_result(refused);         \
		return VFP_RARE(!vfp.next.name)                   \
			       ? (type)vfp_result(by_system_call) \
			       : vfp.next.name hand_on;           \
	}

SOCKET(shutdown, int, (int fd, int how), (fd, how),
       vfp_sys2(SYS_shutdown, fd, how))
SOCKET(listen, int, (int fd, int backlog), (fd, backlog),
       vfp_sys2(SYS_listen, fd, backlog))
SOCKET(bind, int, (int fd, __CONST_SOCKADDR_ARG name, socklen_t size),
       (fd, name, size), vfp_sys3(SYS_bind, fd, name.__sockaddr__, size))
SOCKET(connect, int, (int fd, __CONST_SOCKADDR_ARG name, socklen_t size),
       (fd, name, size), vfp_sys3(SYS_connect, fd, name.__sockaddr__, size))
SOCKET(accept, int, (int fd, __SOCKADDR_ARG name, socklen_t *size),
       (fd, name, size), vfp_sys3(SYS_accept, fd, name.__sockaddr__, size))
SOCKET(accept4, int, (int fd, __SOCKADDR_ARG name, socklen_t *size, int flags),
       (fd, name, size, flags),
       vfp_sys4(SYS_accept4, fd, name.__sockaddr__, size, flags))
SOCKET(getsockname, int, (int fd, __SOCKADDR_ARG name, socklen_t *size),
       (fd, name, size), vfp_sys3(SYS_getsockname, fd, name.__sockaddr__, size))
SOCKET(getpeername, int, (int fd, __SOCKADDR_ARG name, socklen_t *size),
       (fd, name, size), vfp_sys3(SYS_getpeername, fd, name.__sockaddr__, size))
SOCKET(getsockopt, int,
       (int fd, int level, int option, void *value, socklen_t *size),
       (fd, level, option, value, size),
       vfp_sys5(SYS_getsockopt, fd, level, option, value, size))
SOCKET(setsockopt, int,
       (int fd, int level, int option, const void *value, socklen_t size),
       (fd, level, option, value, size),
       vfp_sys5(SYS_setsockopt, fd, level, option, value, size))

SOCKET(send, ssize_t, (int fd, const void *data, size_t size, int flags),
       (fd, data, size, flags), vfp_sys4(SYS_sendto, fd, data, size, flags))
SOCKET(sendto, ssize_t,
       (int fd, const void *data, size_t size, int flags,
	__CONST_SOCKADDR_ARG name, socklen_t length),
       (fd, data, size, flags, name, length),
       vfp_sys6(SYS_sendto, fd, VFP_ARG(data), VFP_ARG(size), flags,
		VFP_ARG(name.__sockaddr__), length))
SOCKET(sendmsg, ssize_t, (int fd, const struct msghdr *message, int flags),
       (fd, message, flags), vfp_sys3(SYS_sendmsg, fd, message, flags))
SOCKET(sendmmsg, int,
       (int fd, struct mmsghdr *messages, unsigned int count, int flags),
       (fd, messages, count, flags),
       vfp_sys4(SYS_sendmmsg, fd, messages, count, flags))
SOCKET(recv, ssize_t, (int fd, void *data, size_t size, int flags),
       (fd, data, size, flags), vfp_sys4(SYS_recvfrom, fd, data, size, flags))
SOCKET(recvfrom, ssize_t,
       (int fd, void *restrict data, size_t size, int flags,
	__SOCKADDR_ARG name, socklen_t *restrict length),
       (fd, data, size, flags, name, length),
       vfp_sys6(SYS_recvfrom, fd, VFP_ARG(data), VFP_ARG(size), flags,
		VFP_ARG(name.__sockaddr__), VFP_ARG(length)))

/* Of fortified programs. One whose buffer is too small is ended by libc. */
SOCKET(__recv_chk, ssize_t,
       (int fd, void *data, size_t size, size_t room, int flags),
       (fd, data, size, room, flags),
       vfp_sys4(SYS_recvfrom, fd, data, size, flags))
SOCKET(__recvfrom_chk, ssize_t,
       (int fd, void *restrict data, size_t size, size_t room, int flags,
	__SOCKADDR_ARG name, socklen_t *restrict length),
       (fd, data, size, room, flags, name, length),
       vfp_sys6(SYS_recvfrom, fd, VFP_ARG(data), VFP_ARG(size), flags,
		VFP_ARG(name.__sockaddr__), VFP_ARG(length)))

VFP_ALIAS(__send, send);
VFP_ALIAS(__connect, connect);
