/* SPDX-License-Identifier: MIT */
/**
 * @file packet.h
 * A connection to the daemon, and the messages on it.
 */
#ifndef VFP_PACKET_H
#define VFP_PACKET_H

#include "own.h"
#include "preload.h"
#include "vfioemu_wire.h"

#define VFP_LOST (-4096) /* the connection is of no use any more */

/** A connection, and what was received on it last. All zero: there is none. */
struct vfp_connection {
	struct vfp_known *known; /* NULL: nobody else need know of it */
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
struct vfp_given {
	unsigned int count;
	int fds[8];
};

/**
 * Send a message with data and an fd (-1: none).
 *
 * @return 0; VFP_LOST; -EFAULT if the data cannot be read, -EBADF if there is
 * no such fd, and then nothing was sent.
 */
VFP_HIDDEN int vfp_send(struct vfp_connection *connection,
			struct vfioemu_msg *msg, const void *data, size_t size,
			int fd);
/** Receive a message: 0 or VFP_LOST. */
VFP_HIDDEN int vfp_receive(struct vfp_connection *connection);
/** Connect to the daemon: 0 or a negative errno. */
VFP_HIDDEN int vfp_dial(struct vfp_connection *connection);
/** Its socket is at another number now. */
VFP_HIDDEN void vfp_renumber(struct vfp_connection *connection, int fd);
/** Close it. */
VFP_HIDDEN void vfp_hang_up(struct vfp_connection *connection);

/**
 * Answer what the daemon asks in `in` (answer.c).
 *
 * @param given what the call in progress was given; NULL on the service
 * connection, where the daemon may ask for memory only.
 * @return 0 or VFP_LOST.
 */
VFP_HIDDEN int vfp_answer(struct vfp_connection *connection,
			  struct vfp_given *given);

#endif
