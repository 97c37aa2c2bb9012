/* SPDX-License-Identifier: MIT */
/**
 * @file hello.c
 * The greeting (protocol/wire.md section 3).
 */
#include "hello.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "sys.h"
#include "trust.h"

/* Greetings of daemons that followed each other at the same place. */
static struct vfioemu_hello greetings[8];
static atomic_uint greeted;

const struct vfioemu_hello *vfp_greeting(void)
{
	unsigned int count = atomic_load(&greeted);

	return count ? &greetings[(count - 1) % 8] : NULL;
}

static void keep(const struct vfioemu_hello *hello)
{
	const struct vfioemu_hello *last = vfp_greeting();

	if (last && !memcmp(last, hello, sizeof(*hello)))
		return;
	unsigned int count = atomic_load(&greeted);
	greetings[count % 8] = *hello;
	atomic_store(&greeted, count + 1);
}

uint64_t vfp_memlock(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	vfp_sys4(SYS_prlimit64, 0, RLIMIT_MEMLOCK, NULL, &limit);
	return limit.rlim_cur;
}

bool vfp_ipc_lock(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3,
						   0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 } };

	return vfp_sys2(SYS_capget, &header, data) >= 0 &&
	       data[0].effective & 1u << CAP_IPC_LOCK;
}

/* Yama lets a process be read by its ancestors only, and by whom it names. */
static void admit(int fd)
{
	struct ucred peer = { 0, 0, 0 };
	int size = sizeof(peer);
	char scope = 0;
	long file = vfp_sys4(SYS_openat, AT_FDCWD,
			     "/proc/sys/kernel/yama/ptrace_scope",
			     O_RDONLY | O_CLOEXEC, 0);

	if (file < 0)
		return;
	vfp_sys3(SYS_read, file, &scope, 1);
	vfp_sys1(SYS_close, file);
	if (scope == '1' &&
	    !vfp_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &peer,
		      &size) &&
	    peer.pid > 0 && peer.uid == (uid_t)vfp_sys0(SYS_getuid))
		vfp_sys2(SYS_prctl, PR_SET_PTRACER, peer.pid);
}

/* Say it once: what is wrong now will be wrong at the next call, too. */
static void complain(int error)
{
	static atomic_bool said;
	const char *why = "it does not speak our protocol";

	if (atomic_exchange(&said, true))
		return;
	if (error == VFP_STRANGER) {
		vfp_say("cannot use VFIOEMU_SOCKET=%s: it is not a daemon of uid "
			"%u that listens there; VFIOEMU_UID names whom to trust",
			vfp.socket, vfp_trust_uid());
		return;
	}
	switch (error) {
	case -ENOENT:
		why = "there is no such socket";
		break;
	case -ECONNREFUSED:
		why = "no daemon listens there";
		break;
	case -EACCES:
	case -EPERM:
		why = "we are not allowed to use it";
		break;
	case -EPROTONOSUPPORT:
		why = "the daemon is of another version";
		break;
	case -EMFILE:
		why = "there are no fds or connections left";
		break;
	case VFP_LOST:
		why = "the daemon hung up";
		break;
	default:
		break;
	}
	vfp_say("cannot use VFIOEMU_SOCKET=%s: %s (%d)", vfp.socket, why,
		error);
}

static int greet(struct vfp_connection *connection, struct vfp_session *session,
		 uint16_t flags)
{
	struct vfioemu_hello hello;
	struct vfioemu_msg msg = {
		.type = VFIOEMU_HELLO,
		.seq = ++connection->seq,
		.arg = { VFIOEMU_WIRE_MAGIC,
			 VFIOEMU_WIRE_VERSION | (uint64_t)VFIOEMU_WIRE_VERSION
							<< 32,
			 session->id },
	};
	bool ipc_lock = vfp_ipc_lock();
	uint64_t memlock = vfp_memlock();

	msg.arg[3] = memlock;
	msg.flags = flags | (ipc_lock ? VFIOEMU_F_IPC_LOCK : 0);
	if (vfp_send(connection, &msg, NULL, 0, -1) || vfp_receive(connection))
		return VFP_LOST;
	if (connection->in_fd >= 0) {
		vfp_sys1(SYS_close, connection->in_fd);
		return -EPROTO;
	}
	if (connection->in.type != VFIOEMU_REPLY ||
	    connection->in.seq != msg.seq)
		return -EPROTO;
	if (connection->in.arg[0]) {
		int64_t error = (int64_t)connection->in.arg[0];

		return error < 0 && error >= -4095 ? (int)error : -EPROTO;
	}
	if (connection->in_size < sizeof(hello))
		return -EPROTO;
	memcpy(&hello, connection->data, sizeof(hello));
	if (hello.version != VFIOEMU_WIRE_VERSION ||
	    hello.max_data != VFIOEMU_MAX_DATA || !connection->in.arg[2])
		return -EPROTO;
	keep(&hello);
	if (!session->id) {
		session->memlock = memlock;
		session->ipc_lock = ipc_lock;
		session->has_service = false;
		vfp_debug(VFP_DEBUG_SHIM, "session %lu", connection->in.arg[3]);
	}
	session->id = connection->in.arg[2];
	return 0;
}

int vfp_hello(struct vfp_connection *connection, struct vfp_session *session,
	      uint16_t flags)
{
	for (;;) {
		int error = vfp_dial(connection);

		if (!error) {
			if (!session->id)
				admit(connection->fd);
			error = greet(connection, session, flags);
			if (!error)
				return 0;
			vfp_hang_up(connection);
		}
		/* The session is over, though we are not: begin another. */
		if (error == -EPERM && session->id && !flags) {
			session->id = 0;
			continue;
		}
		if (error == -EMFILE && session->id)
			return error;
		complain(error);
		return error;
	}
}
