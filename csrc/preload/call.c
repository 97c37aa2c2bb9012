/* SPDX-License-Identifier: MIT */
/**
 * @file call.c
 * From a call to its reply (protocol/wire.md sections 4 to 6).
 */
#include "call.h"

#include <errno.h>
#include <sys/socket.h>

#include "process.h"
#include "session.h"
#include "sys.h"
#include "token.h"

/* Send the call, without what it offers if that cannot be read. */
static int send_call(struct vfp_connection *connection, struct vfp_call *call,
		     int proof)
{
	struct vfioemu_msg msg = call->msg;
	int fd = proof >= 0 ? proof : call->out_fd;
	int error = vfp_send(connection, &msg, call->out, call->out_size, fd);

	if (error != -EFAULT || !call->out_size)
		return error;
	call->out_size = 0;
	call->in_size = 0;
	call->msg.flags &= (uint16_t)~VFIOEMU_F_WRITABLE;
	msg = call->msg;
	return vfp_send(connection, &msg, NULL, 0, fd);
}

/* Take the unread packet off the token, if it is still there: another thread
 * may have closed it, and the number may be of any other socket. */
static void drain(const struct vfp_call *call)
{
	struct vfp_file file = { .fd = call->token };
	unsigned char byte;
	uint8_t id[16];
	bool forbidden;

	if (call->token >= 0 && vfp_token(&file, id, &forbidden) &&
	    vfp_session_is(id) && file.serial == call->msg.token)
		vfp_sys6(SYS_recvfrom, call->token, VFP_ARG(&byte), 1,
			 MSG_DONTWAIT, 0, 0);
}

/* Put what the reply brings where it belongs. */
static int64_t take_reply(struct vfp_connection *connection,
			  struct vfp_call *call)
{
	struct vfioemu_msg *reply = &connection->in;
	int64_t result = (int64_t)reply->arg[0];

	call->in_fd = connection->in_fd;
	call->in_start = reply->arg[1];
	call->in_more = reply->arg[2];
	call->flags = reply->flags;
	if (connection->in_size) {
		if (reply->arg[1] > call->in_size ||
		    connection->in_size > call->in_size - reply->arg[1])
			return VFP_LOST;
		if (vfp_copy_out((char *)call->in + reply->arg[1],
				 connection->data, connection->in_size))
			result = -EFAULT;
	}
	if (reply->flags & VFIOEMU_F_DRAIN)
		drain(call);
	return result >= -4095 ? result : -EIO;
}

/* An fd where none belongs: the program would have it and not know it. */
static bool has_stray_fd(const struct vfp_connection *connection,
			 const struct vfp_call *call)
{
	return connection->in_fd >= 0 &&
	       (!call->wants_fd || connection->in.arg[0] ||
		connection->in.flags & VFIOEMU_F_UNPROVED);
}

/* The packet that ends the call, after all that the daemon asks before it. */
static int await_reply(struct vfp_connection *connection, struct vfp_call *call,
		       struct vfp_given *given)
{
	for (;;) {
		bool ours;

		if (vfp_receive(connection))
			return VFP_LOST;
		ours = connection->in.seq == call->msg.seq;
		if (ours && connection->in.type != VFIOEMU_REPLY) {
			if (vfp_answer(connection, given))
				return VFP_LOST;
			continue;
		}
		if (ours && !has_stray_fd(connection, call))
			return 0;
		if (connection->in_fd >= 0)
			vfp_sys1(SYS_close, connection->in_fd);
		return VFP_LOST;
	}
}

static int64_t exchange(struct vfp_connection *connection,
			struct vfp_call *call, int proof, bool *sent)
{
	struct vfp_given given = { .count = 0 };
	bool unproved = false;
	int64_t result;

	call->msg.seq = ++connection->seq;
	*sent = false;
	result = send_call(connection, call, proof);
	if (result)
		return result;
	*sent = true;
	result = await_reply(connection, call, &given);
	if (!result) {
		unproved = connection->in.flags & VFIOEMU_F_UNPROVED &&
			   proof < 0 && call->token >= 0;
		result = unproved ? -EBADF : take_reply(connection, call);
	}
	/* Nobody will learn of what a call has given that has failed. */
	while (result < 0 && given.count)
		vfp_sys1(SYS_close, given.fds[--given.count]);
	return unproved ? exchange(connection, call, call->token, sent)
			: result;
}

int64_t vfp_call(struct vfp_call *call)
{
	uint64_t mask = vfp_signals_block();
	int64_t result = VFP_LOST;
	bool sent = false;

	/* A connection may have ended while nobody used it: try another. */
	for (int tries = 0; result == VFP_LOST && !sent && tries < 3; tries++) {
		struct vfp_connection *connection = vfp_connection_get();

		if (!connection)
			break;
		call->in_fd = -1;
		result = exchange(connection, call, -1, &sent);
		if (result == VFP_LOST && call->in_fd >= 0) {
			vfp_sys1(SYS_close, call->in_fd);
			call->in_fd = -1;
		}
		vfp_connection_put(connection, result == VFP_LOST);
	}
	vfp_signals_restore(mask);
	if (result == VFP_LOST)
		result = -EIO;
	vfp_debug(VFP_DEBUG_RPC, "type %u token %lu (0x%lx 0x%lx 0x%lx): %ld",
		  call->msg.type, call->msg.token, call->msg.arg[0],
		  call->msg.arg[1], call->msg.arg[2], (long)result);
	return result;
}
