/* SPDX-License-Identifier: MIT */
/**
 * @file packet.h
 * A connection to the daemon, and the messages on it.
 */
#ifndef VFE_PACKET_H
#define VFE_PACKET_H

#include "own.h"
#include "preload.h"
#include "vfioemu_wire.h"

#define VFE_LOST (-4096) /* the connection is of no use any more */

/** A connection, and what was received on it last. All zero: there is none. */
struct vfe_connection {
	struct vfe_known *known; /* NULL: nobody else need know of it */
	bool open;
	atomic_int fd;
	uint64_t cookie; /* of the socket: a number may come to mean another */
	uint32_t seq;
	struct vfioemu_msg in;
	int in_fd;	     /* that came with it, or -1 */
	size_t in_size;	     /* of its data */
	unsigned char *data; /* VFIOEMU_MAX_DATA bytes */
};

/** The fds that a call has given us, which it may revoke. */
struct vfe_given {
	unsigned int count;
	int fds[8];
};

/**
 * Send a message with data and an fd (-1: none).
 *
 * @return 0; VFE_LOST; -EFAULT if the data cannot be read, -EBADF if there is
 * no such fd, and then nothing was sent.
 */
VFE_HIDDEN int vfe_send(struct vfe_connection *connection,
			struct vfioemu_msg *msg, const void *data, size_t size,
			int fd);
/** Receive a message: 0 or VFE_LOST. */
VFE_HIDDEN int vfe_receive(struct vfe_connection *connection);
/** Connect to the daemon: 0 or a negative errno. */
VFE_HIDDEN int vfe_dial(struct vfe_connection *connection);
/** Its socket is at another number now. */
VFE_HIDDEN void vfe_renumber(struct vfe_connection *connection, int fd);
/** Close it. */
VFE_HIDDEN void vfe_hang_up(struct vfe_connection *connection);

/**
 * Answer what the daemon asks in `in` (answer.c).
 *
 * @param given what the call in progress was given; NULL on the service
 * connection, where the daemon may ask for memory only.
 * @return 0 or VFE_LOST.
 */
VFE_HIDDEN int vfe_answer(struct vfe_connection *connection,
			  struct vfe_given *given);

#endif
