/* SPDX-License-Identifier: MIT */
/**
 * @file packet.c
 * Messages on a SOCK_SEQPACKET connection. Nothing that the daemon says is
 * trusted to be of the right size.
 */
#include "packet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "sys.h"
#include "trust.h"

union control {
	struct cmsghdr header;
	unsigned char room[CMSG_SPACE(sizeof(int))];
};

int vfp_send(struct vfp_connection *connection, struct vfioemu_msg *msg,
	     const void *data, size_t size, int fd)
{
	struct iovec iov[2] = { { msg, sizeof(*msg) },
				{ (void *)(uintptr_t)data, size } };
	struct msghdr packet = { .msg_iov = iov, .msg_iovlen = size ? 2 : 1 };
	union control control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET,
					      SCM_RIGHTS } };
	long result;

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control);
		msg->flags |= VFIOEMU_F_FD;
	}
	do
		result = vfp_sys3(SYS_sendmsg, atomic_load(&connection->fd),
				  &packet, MSG_NOSIGNAL);
	while (result == -EINTR);
	if (result == -EFAULT || (result == -EBADF && fd >= 0))
		return (int)result;
	if (VFP_RARE(result < 0))
		vfp_forbidden("sendmsg", result);
	return result < 0 ? VFP_LOST : 0;
}

int vfp_receive(struct vfp_connection *connection)
{
	struct iovec iov[2] = { { &connection->in, sizeof(connection->in) },
				{ connection->data, VFIOEMU_MAX_DATA } };
	union control control;
	/* The padding of CMSG_SPACE() would hold another fd. */
	struct msghdr packet = { .msg_iov = iov,
				 .msg_iovlen = 2,
				 .msg_control = &control,
				 .msg_controllen = CMSG_LEN(sizeof(int)) };
	long size;

	connection->in_fd = -1;
	do
		size = vfp_sys3(SYS_recvmsg, atomic_load(&connection->fd),
				&packet, MSG_CMSG_CLOEXEC);
	while (size == -EINTR);
	if (VFP_RARE(size < 0)) {
		vfp_forbidden("recvmsg", size);
		return VFP_LOST;
	}
	if (packet.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    control.header.cmsg_level == SOL_SOCKET &&
	    control.header.cmsg_type == SCM_RIGHTS)
		memcpy(&connection->in_fd, CMSG_DATA(&control.header),
		       sizeof(int));
	if (size < (long)sizeof(connection->in) ||
	    packet.msg_flags & MSG_TRUNC) {
		if (connection->in_fd >= 0)
			vfp_sys1(SYS_close, connection->in_fd);
		connection->in_fd = -1; /* vfp_answer() closes what is left */
		return VFP_LOST;
	}
	connection->in_size = (size_t)size - sizeof(connection->in);
	return 0;
}

static int raise_number(int fd)
{
	int high = vfp_high_copy(fd);

	if (high < 0)
		return fd;
	vfp_sys1(SYS_close, fd);
	return high;
}

void vfp_renumber(struct vfp_connection *connection, int fd)
{
	connection->fd = fd;
	if (connection->known)
		vfp_own(connection->known, fd, connection->cookie);
}

int vfp_dial(struct vfp_connection *connection)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	long fd, error;

	memcpy(name.sun_path, vfp.socket, strlen(vfp.socket));
	fd = vfp_sys3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	fd = raise_number((int)fd);
	connection->open = true;
	connection->seq = 0;
	connection->cookie = vfp_cookie((int)fd);
	/* Before it takes its time: others may fork, or close everything. */
	vfp_renumber(connection, (int)fd);
	do
		error = vfp_sys3(SYS_connect, fd, &name, sizeof(name));
	while (error == -EINTR);
	if (!error && !vfp_trust_peer(connection->fd))
		error = VFP_STRANGER; /* not a byte is for him */
	if (error < 0)
		vfp_hang_up(connection);
	return (int)error;
}

void vfp_hang_up(struct vfp_connection *connection)
{
	if (!connection->open)
		return;
	connection->open = false;
	if (vfp_still_there(connection->fd, connection->cookie))
		vfp_sys1(SYS_close, connection->fd);
	/* Nothing else is to be undone at that number, which may be of another
	 * file already: it is hidden only while our socket is there. */
	if (connection->known)
		atomic_store(&connection->known->number, 0);
}
