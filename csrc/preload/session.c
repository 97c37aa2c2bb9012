/* SPDX-License-Identifier: MIT */
/**
 * @file session.c
 * The connections of this process, from fork to fork.
 */
#include "session.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#include "hello.h"
#include "lock.h"
#include "process.h"
#include "sys.h"

struct slot {
	atomic_int busy;
	struct vfp_connection connection;
};

/** What a fork wipes. All zero: a process that has made no call yet. */
static struct connections {
	vfp_lock lock;	    /* of the session, and of making connections */
	atomic_int freed;   /* futex: counts connections that were put back */
	atomic_int waiting; /* threads that wait for one */
	atomic_int limit;   /* how many there can be; 0: not known yet */
	struct vfp_session session;
	struct slot slots[VFP_CONNECTIONS];
} *ours;

static unsigned char buffers[VFP_CONNECTIONS][VFIOEMU_MAX_DATA];

bool vfp_session_init(void)
{
	ours = vfp_wiped_memory(sizeof(*ours));
	return ours;
}

void vfp_session_forked(void)
{
	if (vfp_process_is_copied())
		memset(ours, 0, sizeof(*ours));
}

/* Have a session, if that is possible. */
static void ensure_session(void)
{
	uint64_t mask = vfp_signals_block();
	struct vfp_connection *connection = vfp_connection_get();

	if (connection)
		vfp_connection_put(connection, false);
	vfp_signals_restore(mask);
}

bool vfp_session_is(const uint8_t id[16])
{
	const struct vfioemu_hello *hello = vfp_greeting();

	if (!hello) {
		ensure_session();
		hello = vfp_greeting();
	}
	return hello && !memcmp(hello->daemon_id, id, sizeof(hello->daemon_id));
}

struct vfp_session *vfp_session_here(void)
{
	if (!vfp_process_is_ours())
		return NULL;
	if (!atomic_load(&ours->session.id))
		ensure_session();
	return atomic_load(&ours->session.id) ? &ours->session : NULL;
}

/* --- connections --- */

/* A connection for one call of a vfork() child, in memory of its own. */
static struct vfp_connection *borrow(void)
{
	struct vfp_session session = { .id = 0 };
	struct vfp_connection *connection =
		vfp_wiped_memory(sizeof(*connection) + VFIOEMU_MAX_DATA);

	if (!connection)
		return NULL;
	connection->data = (unsigned char *)(connection + 1);
	if (!vfp_hello(connection, &session, 0))
		return connection;
	vfp_sys2(SYS_munmap, connection,
		 sizeof(*connection) + VFIOEMU_MAX_DATA);
	return NULL;
}

static bool is_borrowed(const struct vfp_connection *connection)
{
	return connection->data == (const unsigned char *)(connection + 1);
}

static unsigned int index_of(const struct vfp_connection *connection)
{
	const char *base = (const char *)&ours->slots[0].connection;

	return (unsigned int)(((const char *)connection - base) /
			      (ptrdiff_t)sizeof(struct slot));
}

static bool take_slot(struct slot *slot)
{
	int idle = 0;

	return atomic_compare_exchange_strong(&slot->busy, &idle, 1);
}

/* Wait until a connection has been put back since `freed` was read. */
static void wait_for_slot(int freed)
{
	atomic_fetch_add(&ours->waiting, 1);
	vfp_sys4(SYS_futex, &ours->freed, FUTEX_WAIT_PRIVATE, freed, NULL);
	atomic_fetch_sub(&ours->waiting, 1);
}

static void put(struct slot *slot)
{
	atomic_store(&slot->busy, 0);
	atomic_fetch_add(&ours->freed, 1);
	if (atomic_load(&ours->waiting))
		vfp_sys3(SYS_futex, &ours->freed, FUTEX_WAKE_PRIVATE, INT_MAX);
}

/* Whether there is none, or it is of this thread's fd table. */
static bool is_here(const struct vfp_connection *connection)
{
	return !connection->open ||
	       vfp_still_there(connection->fd, connection->cookie);
}

/* A slot that is idle; `here`: no other than those. */
static struct slot *take_idle(bool here)
{
	int limit = atomic_load(&ours->limit);

	for (int i = 0; i < (limit ? limit : VFP_CONNECTIONS); i++) {
		struct slot *slot = &ours->slots[i];

		if (!take_slot(slot))
			continue;
		if (!here || is_here(&slot->connection))
			return slot;
		put(slot);
	}
	return NULL;
}

/* An idle connection, or a place for one. */
static struct slot *take(void)
{
	for (;;) {
		int freed = atomic_load(&ours->freed);
		struct slot *slot = vfp.shares_no_fds ? take_idle(true) : NULL;

		if (!slot)
			slot = take_idle(false);
		if (slot)
			return slot;
		wait_for_slot(freed);
	}
}

/* Connect, and join or make the session. */
static int join(struct slot *slot, unsigned int index)
{
	int error;

	slot->connection.data = buffers[index];
	slot->connection.known = &vfp_own_connections[index];
	vfp_lock_take(&ours->lock);
	error = vfp_hello(&slot->connection, &ours->session, 0);
	if (!error) {
		uint32_t most = vfp_greeting()->max_channels;

		if (!atomic_load(&ours->limit))
			atomic_store(&ours->limit,
				     most && most < VFP_CONNECTIONS
					     ? (int)most
					     : VFP_CONNECTIONS);
		vfp_service_start(&ours->session, &vfp_own_service);
	}
	vfp_lock_release(&ours->lock);
	return error;
}

struct vfp_connection *vfp_connection_get(void)
{
	if (!vfp_process_is_ours())
		return borrow();
	for (;;) {
		struct slot *slot = take();
		struct vfp_connection *connection = &slot->connection;
		unsigned int index = index_of(connection);
		int error;

		if (connection->open &&
		    vfp_still_there(connection->fd, connection->cookie))
			return connection;
		vfp_hang_up(connection);
		error = join(slot, index);
		if (!error)
			return connection;
		/* No room for another one: wait for those that there are. */
		if (error == -EMFILE && index)
			atomic_store(&ours->limit, (int)index);
		put(slot);
		if (error != -EMFILE || !index)
			return NULL;
	}
}

void vfp_connection_put(struct vfp_connection *connection, bool lost)
{
	if (is_borrowed(connection)) {
		vfp_hang_up(connection);
		vfp_sys2(SYS_munmap, connection,
			 sizeof(*connection) + VFIOEMU_MAX_DATA);
		return;
	}
	if (lost)
		vfp_hang_up(connection);
	put(&ours->slots[index_of(connection)]);
}

/* --- numbers --- */

/* Nobody makes a call on it now: give it another number. */
static int renumber(struct slot *slot, int fd)
{
	struct vfp_connection *connection = &slot->connection;

	if (connection->open && connection->fd == fd) {
		long other = vfp_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1);

		if (other < 0)
			other = vfp_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
		if (other < 0)
			return -EBUSY;
		/* The program's call may yet fail. */
		if (vfp_still_there(fd, connection->cookie))
			vfp_sys1(SYS_close, fd);
		vfp_renumber(connection, (int)other);
	}
	return 0;
}

int vfp_connection_move(int fd)
{
	unsigned int i = 0;
	uint64_t mask;
	int error;

	/* After vfork() it is a copy that nobody needs. */
	if (!vfp_process_is_ours())
		return 0;
	while (i < VFP_CONNECTIONS &&
	       atomic_load(&vfp_own_connections[i].number) != fd + 1)
		i++;
	if (i == VFP_CONNECTIONS)
		return 0;
	mask = vfp_signals_block();
	for (;;) {
		int freed = atomic_load(&ours->freed);

		if (take_slot(&ours->slots[i]))
			break;
		wait_for_slot(freed);
	}
	error = renumber(&ours->slots[i], fd);
	put(&ours->slots[i]);
	vfp_signals_restore(mask);
	return error;
}
