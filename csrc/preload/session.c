/* SPDX-License-Identifier: MIT */
/**
 * @file session.c
 * The connections of this process, from fork to fork.
 */
#include "session.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "fds.h"
#include "hello.h"
#include "sys.h"

struct slot {
	atomic_int busy;
	struct vfe_connection connection;
};

/** What a fork wipes. All zero: a process that has made no call yet. */
struct process {
	atomic_int pid;
	atomic_int lock;    /* futex: 1 taken, 2 taken and waited for */
	atomic_int freed;   /* futex: counts connections that were put back */
	atomic_int waiting; /* threads that wait for one */
	atomic_int limit;   /* how many there can be; 0: not known yet */
	struct vfe_session session;
	struct slot slots[VFE_CONNECTIONS];
};

static struct process *process;
static unsigned char buffers[VFE_CONNECTIONS][VFIOEMU_MAX_DATA];

/* What a child has to close: survives a fork. */
static struct {
	_Atomic int number; /* fd + 1 */
	_Atomic uint64_t cookie;
} inherited[VFE_CONNECTIONS + 1];

uint64_t vfe_signals_block(void)
{
	uint64_t all = ~UINT64_C(0), mask = 0;

	vfe_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof(mask));
	return mask;
}

void vfe_signals_restore(uint64_t mask)
{
	vfe_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

/* --- a lock; whoever takes it has blocked its signals --- */

static void lock(void)
{
	int state = 0;

	if (atomic_compare_exchange_strong(&process->lock, &state, 1))
		return;
	while (atomic_exchange(&process->lock, 2))
		vfe_sys4(SYS_futex, &process->lock, FUTEX_WAIT_PRIVATE, 2,
			 NULL);
}

static void unlock(void)
{
	if (atomic_exchange(&process->lock, 0) == 2)
		vfe_sys3(SYS_futex, &process->lock, FUTEX_WAKE_PRIVATE, 1);
}

/* --- which process this is --- */

void vfe_note_connection(unsigned int index,
			 const struct vfe_connection *connection)
{
	atomic_store(&inherited[index].cookie, connection->cookie);
	atomic_store(&inherited[index].number,
		     connection->open ? connection->fd + 1 : 0);
}

/* The first look of a new process at its memory: what was its parent's? */
static void start_over(void)
{
	uint64_t mask = vfe_signals_block();
	int me = (int)vfe_sys0(SYS_getpid);

	lock();
	if (!atomic_load(&process->pid)) {
		for (unsigned int i = 0; i <= VFE_CONNECTIONS; i++) {
			int fd = atomic_exchange(&inherited[i].number, 0) - 1;

			if (fd < 0)
				continue;
			vfe_fd_internal(fd, false);
			if (vfe_still_there(fd,
					    atomic_load(&inherited[i].cookie)))
				vfe_sys1(SYS_close, fd);
		}
		atomic_store(&process->pid, me);
		vfe_debug(VFE_DEBUG_SHIM, "process %d", me);
	}
	unlock();
	vfe_signals_restore(mask);
}

bool vfe_session_is_ours(void)
{
	if (VFE_RARE(!atomic_load(&process->pid)))
		start_over();
	return atomic_load(&process->pid) == (int)vfe_sys0(SYS_getpid);
}

/* Where MADV_WIPEONFORK did not do it. */
static void forked(void)
{
	if (atomic_load(&process->pid) &&
	    atomic_load(&process->pid) != (int)vfe_sys0(SYS_getpid))
		memset(process, 0, sizeof(*process));
	vfe_session_is_ours();
}

void vfe_session_init(void)
{
	long memory =
		vfe_sys6(SYS_mmap, 0, sizeof(*process), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory < 0 && memory >= -4095) {
		vfe_say("no memory: no device is emulated");
		vfe.active = false;
		return;
	}
	process = (struct process *)memory;
	vfe_sys3(SYS_madvise, process, sizeof(*process), MADV_WIPEONFORK);
	pthread_atfork(NULL, NULL, forked);
}

bool vfe_session_is(const uint8_t id[16])
{
	const struct vfioemu_hello *hello = vfe_greeting();

	if (!hello) {
		uint64_t mask = vfe_signals_block();
		struct vfe_connection *connection = vfe_connection_get();

		if (connection)
			vfe_connection_put(connection, false);
		vfe_signals_restore(mask);
		hello = vfe_greeting();
	}
	return hello && !memcmp(hello->daemon_id, id, sizeof(hello->daemon_id));
}

/* --- connections --- */

/* A connection for one call of a vfork() child, in memory of its own. */
static struct vfe_connection *borrow(void)
{
	struct vfe_session session = { .id = 0 };
	long memory = vfe_sys6(
		SYS_mmap, 0, sizeof(struct vfe_connection) + VFIOEMU_MAX_DATA,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory < 0 && memory >= -4095)
		return NULL;
	struct vfe_connection *connection = (struct vfe_connection *)memory;
	connection->data = (unsigned char *)(connection + 1);
	if (!vfe_hello(connection, &session, 0))
		return connection;
	vfe_sys2(SYS_munmap, connection,
		 sizeof(*connection) + VFIOEMU_MAX_DATA);
	return NULL;
}

static bool is_borrowed(const struct vfe_connection *connection)
{
	return connection->data == (const unsigned char *)(connection + 1);
}

static unsigned int index_of(const struct vfe_connection *connection)
{
	const char *base = (const char *)&process->slots[0].connection;

	return (unsigned int)(((const char *)connection - base) /
			      (ptrdiff_t)sizeof(struct slot));
}

/* An idle connection, or a place for one. */
static struct vfe_connection *take(void)
{
	for (;;) {
		int freed = atomic_load(&process->freed);
		int limit = atomic_load(&process->limit);

		for (int i = 0; i < (limit ? limit : VFE_CONNECTIONS); i++) {
			struct slot *slot = &process->slots[i];
			int idle = 0;

			if (atomic_compare_exchange_strong(&slot->busy, &idle,
							   1))
				return &slot->connection;
		}
		atomic_fetch_add(&process->waiting, 1);
		vfe_sys4(SYS_futex, &process->freed, FUTEX_WAIT_PRIVATE, freed,
			 NULL);
		atomic_fetch_sub(&process->waiting, 1);
	}
}

static void put(unsigned int index)
{
	atomic_store(&process->slots[index].busy, 0);
	atomic_fetch_add(&process->freed, 1);
	if (atomic_load(&process->waiting))
		vfe_sys3(SYS_futex, &process->freed, FUTEX_WAKE_PRIVATE, 1);
}

/* Connect, and join or make the session. */
static int join(struct vfe_connection *connection, unsigned int index)
{
	int error;

	connection->data = buffers[index];
	lock();
	error = vfe_hello(connection, &process->session, 0);
	if (!error) {
		vfe_note_connection(index, connection);
		if (!atomic_load(&process->limit)) {
			uint32_t most = vfe_greeting()->max_channels;

			atomic_store(&process->limit,
				     most && most < VFE_CONNECTIONS
					     ? (int)most
					     : VFE_CONNECTIONS);
		}
		vfe_service_start(&process->session, VFE_CONNECTIONS);
	}
	unlock();
	return error;
}

struct vfe_connection *vfe_connection_get(void)
{
	if (!vfe_session_is_ours())
		return borrow();
	for (;;) {
		struct vfe_connection *connection = take();
		unsigned int index = index_of(connection);
		int error;

		if (connection->open &&
		    vfe_still_there(connection->fd, connection->cookie))
			return connection;
		connection->open = false;
		error = join(connection, index);
		if (!error)
			return connection;
		/* No room for another one: wait for those that there are. */
		if (error == -EMFILE && index)
			atomic_store(&process->limit, (int)index);
		put(index);
		if (error != -EMFILE || !index)
			return NULL;
	}
}

void vfe_connection_put(struct vfe_connection *connection, bool lost)
{
	if (is_borrowed(connection)) {
		vfe_hang_up(connection);
		vfe_sys2(SYS_munmap, connection,
			 sizeof(*connection) + VFIOEMU_MAX_DATA);
		return;
	}
	unsigned int index = index_of(connection);
	if (lost) {
		vfe_hang_up(connection);
		vfe_note_connection(index, connection);
	}
	put(index);
}
