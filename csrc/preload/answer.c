/* SPDX-License-Identifier: MIT */
/**
 * @file answer.c
 * What only this process can do for the daemon: reach its memory, hand over its
 * fds, take new ones (protocol/wire.md section 6).
 */
#include <errno.h>
#include <string.h>

#include "fd_table.h"
#include "own.h"
#include "packet.h"
#include "sys.h"

static const unsigned char zeroes[VFIOEMU_MAX_DATA];

static size_t least(uint64_t size)
{
	return size < VFIOEMU_MAX_DATA ? (size_t)size : VFIOEMU_MAX_DATA;
}

/* READ_USER: straight from the program's memory; sendmsg() says EFAULT. */
static int read_user(struct vfp_connection *connection,
		     struct vfioemu_msg *answer)
{
	const char *from = (const char *)(uintptr_t)connection->in.arg[0];
	uint64_t left = connection->in.arg[1];
	size_t part = least(left);
	int error;

	answer->arg[1] = left;
	error = vfp_send(connection, answer, from, part, -1);
	if (error == -EFAULT) {
		answer->arg[0] = (uint64_t)-EFAULT;
		answer->arg[1] = 0;
		return vfp_send(connection, answer, NULL, 0, -1);
	}
	struct vfioemu_msg data = { .type = VFIOEMU_DATA, .seq = answer->seq };
	while (!error && left > part) {
		left -= part;
		from = from ? from + part : NULL;
		part = least(left);
		if (from)
			error = vfp_send(connection, &data, from, part, -1);
		if (error == -EFAULT || !from) {
			data.arg[0] = left == part ? (uint64_t)-EFAULT : 0;
			from = NULL;
			error = vfp_send(connection, &data, zeroes, part, -1);
		}
	}
	return error;
}

/* The same for hardware, which does not ask what the program may do there. */
static int read_pinned(struct vfp_connection *connection,
		       struct vfioemu_msg *answer)
{
	const char *from = (const char *)(uintptr_t)connection->in.arg[0];
	uint64_t left = connection->in.arg[1];
	struct vfioemu_msg data = { .type = VFIOEMU_DATA, .seq = answer->seq };
	size_t part = least(left);
	int error = vfp_pinned_in(connection->data, from, part);

	answer->arg[0] = (uint64_t)(int64_t)error;
	answer->arg[1] = error ? 0 : left;
	if (error)
		return vfp_send(connection, answer, NULL, 0, -1);
	error = vfp_send(connection, answer, connection->data, part, -1);
	while (!error && left > part) {
		left -= part;
		from += part;
		part = least(left);
		if (!data.arg[0] && vfp_pinned_in(connection->data, from, part))
			data.arg[0] = (uint64_t)-EFAULT;
		struct vfioemu_msg next = data;

		next.arg[0] = left == part ? data.arg[0] : 0;
		error = vfp_send(connection, &next, connection->data, part, -1);
	}
	return error;
}

/* WRITE_USER: as much as can be written. */
static int write_user(struct vfp_connection *connection,
		      struct vfioemu_msg *answer)
{
	char *to = (char *)(uintptr_t)connection->in.arg[0];
	bool pinned = connection->in.flags & VFIOEMU_F_PINNED;
	uint64_t left = connection->in.arg[1];
	int error = 0;

	for (;;) {
		size_t part = least(left);

		if (connection->in_size != part)
			return VFP_LOST;
		if (!error)
			error = pinned ? vfp_pinned_out(to, connection->data,
							part)
				       : vfp_copy_out(to, connection->data,
						      part);
		to += part;
		left -= part;
		if (!left)
			break;
		if (vfp_receive(connection) ||
		    connection->in.type != VFIOEMU_DATA ||
		    connection->in.seq != answer->seq || connection->in_fd >= 0)
			return VFP_LOST;
	}
	answer->arg[0] = (uint64_t)(int64_t)error;
	return vfp_send(connection, answer, NULL, 0, -1);
}

static int take_fd(struct vfp_connection *connection,
		   struct vfioemu_msg *answer)
{
	uint64_t number = connection->in.arg[0];
	int error = -EBADF;

	if (number <= INT32_MAX && !vfp_is_internal((int)number))
		error = vfp_send(connection, answer, NULL, 0, (int)number);
	if (error != -EBADF)
		return error;
	answer->flags = 0;
	answer->arg[0] = (uint64_t)-EBADF;
	return vfp_send(connection, answer, NULL, 0, -1);
}

static int give_fd(struct vfp_connection *connection,
		   struct vfioemu_msg *answer, struct vfp_given *given)
{
	size_t most = sizeof(given->fds) / sizeof(*given->fds);
	int fd = connection->in_fd;

	connection->in_fd = -1;
	if (given->count == most) {
		if (fd >= 0)
			vfp_sys1(SYS_close, fd);
		return VFP_LOST;
	}
	if (fd >= 0) {
		vfp_fd_is_ours(fd);
		given->fds[given->count++] = fd;
	}
	answer->arg[0] = (uint64_t)(int64_t)(fd >= 0 ? fd : -EMFILE);
	return vfp_send(connection, answer, NULL, 0, -1);
}

/* Nothing but what this very call has given may be closed. */
static int revoke_fd(struct vfp_connection *connection,
		     struct vfioemu_msg *answer, struct vfp_given *given)
{
	for (unsigned int i = 0; i < given->count; i++)
		if ((uint64_t)given->fds[i] == connection->in.arg[0]) {
			vfp_sys1(SYS_close, given->fds[i]);
			given->fds[i] = given->fds[--given->count];
			return vfp_send(connection, answer, NULL, 0, -1);
		}
	return VFP_LOST;
}

static int answer(struct vfp_connection *connection, struct vfp_given *given)
{
	struct vfioemu_msg *in = &connection->in;
	struct vfioemu_msg answer = { .type = VFIOEMU_ANSWER, .seq = in->seq };

	switch (in->type) {
	case VFIOEMU_READ_USER:
		return in->flags & VFIOEMU_F_PINNED
			       ? read_pinned(connection, &answer)
			       : read_user(connection, &answer);
	case VFIOEMU_WRITE_USER:
		return write_user(connection, &answer);
	case VFIOEMU_PIN:
		answer.arg[0] =
			vfp_populate((void *)(uintptr_t)in->arg[0], in->arg[1],
				     in->flags & VFIOEMU_F_WRITE);
		return vfp_send(connection, &answer, NULL, 0, -1);
	case VFIOEMU_TAKE_FD:
		return given ? take_fd(connection, &answer) : VFP_LOST;
	case VFIOEMU_GIVE_FD:
		return given ? give_fd(connection, &answer, given) : VFP_LOST;
	case VFIOEMU_REVOKE_FD:
		return given ? revoke_fd(connection, &answer, given) : VFP_LOST;
	default:
		return VFP_LOST;
	}
}

int vfp_answer(struct vfp_connection *connection, struct vfp_given *given)
{
	int error = VFP_LOST;

	vfp_debug(VFP_DEBUG_RPC, "asked for %u: 0x%lx 0x%lx",
		  connection->in.type, connection->in.arg[0],
		  connection->in.arg[1]);
	if (connection->in_fd < 0 || connection->in.type == VFIOEMU_GIVE_FD)
		error = answer(connection, given);
	if (connection->in_fd >= 0) {
		vfp_sys1(SYS_close, connection->in_fd);
		connection->in_fd = -1;
		return VFP_LOST;
	}
	return error;
}
