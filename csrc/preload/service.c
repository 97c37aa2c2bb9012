/* SPDX-License-Identifier: MIT */
/**
 * @file service.c
 * A thread that serves DMA memory to a daemon that does not reach into other
 * processes (protocol/wire.md section 7). There is none otherwise.
 *
 * It is made with the session and ends with its connection. It has an fd table
 * of its own with nothing but that: the program cannot close it, and nothing
 * that the program closes is kept open by it. A fork leaves it behind.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "hello.h"
#include "sys.h"

#define STACK (256ul << 10)

enum state { STARTING, SERVING, FAILED };

struct service {
	struct vfp_connection connection;
	atomic_int *state; /* futex: enum state, of whoever waits for it */
	unsigned char data[VFIOEMU_MAX_DATA];
};

/* Have no fd but this one, and share that with nobody. */
static bool keep_only(unsigned int fd)
{
	return !vfp_sys3(SYS_close_range, fd + 1, ~0u, CLOSE_RANGE_UNSHARE) &&
	       (!fd || !vfp_sys3(SYS_close_range, 0, fd - 1, 0));
}

/*
 * All of the program's signals stay blocked here, but not the two that libc
 * has for itself, SIGCANCEL and SIGSETXID: setuid() waits until each thread has
 * handled the latter.
 */
static void admit_signals_of_libc(void)
{
	uint64_t mask = ~(UINT64_C(1) << (32 - 1) | UINT64_C(1) << (33 - 1));

	vfp_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

static void *serve(void *argument)
{
	struct service *service = argument;
	struct vfp_connection *connection = &service->connection;
	atomic_int *state = service->state;
	bool alone = keep_only((unsigned int)connection->fd);

	admit_signals_of_libc();
	vfp_sys2(SYS_prctl, PR_SET_NAME, "vfioemu");
	atomic_store(state, alone ? SERVING : FAILED);
	/* It may be gone, but the kernel looks at the address only. */
	vfp_sys3(SYS_futex, state, FUTEX_WAKE_PRIVATE, 1);
	while (alone && !vfp_receive(connection) &&
	       !vfp_answer(connection, NULL))
		;
	vfp_debug(VFP_DEBUG_SHIM, "the service ends");
	if (alone)
		vfp_sys1(SYS_close, connection->fd);
	vfp_sys2(SYS_munmap, service, sizeof(*service));
	return NULL;
}

/* True if the thread runs, and has its own fds. */
static bool start(struct service *service)
{
	atomic_int state = STARTING;
	pthread_attr_t attributes;
	pthread_t thread;
	int error;

	service->state = &state;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK);
	error = pthread_create(&thread, &attributes, serve, service);
	if (error == EINVAL) { /* much thread-local memory: the usual size */
		pthread_attr_destroy(&attributes);
		pthread_attr_init(&attributes);
		pthread_attr_setdetachstate(&attributes,
					    PTHREAD_CREATE_DETACHED);
		error = pthread_create(&thread, &attributes, serve, service);
	}
	pthread_attr_destroy(&attributes);
	if (error) {
		vfp_sys2(SYS_munmap, service, sizeof(*service));
		return false;
	}
	while (atomic_load(&state) == STARTING)
		vfp_sys4(SYS_futex, &state, FUTEX_WAIT_PRIVATE, STARTING, NULL);
	return atomic_load(&state) == SERVING;
}

void vfp_service_start(struct vfp_session *session, struct vfp_known *known)
{
	struct vfp_connection ours;
	struct service *service;
	int saved = errno;
	long memory;

	if (session->has_service ||
	    vfp_greeting()->memory_mode != VFIOEMU_MEMORY_ASK)
		return;
	session->has_service = true;
	memory = vfp_sys6(SYS_mmap, 0, sizeof(*service), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory < 0 && memory >= -4095)
		return;
	service = (struct service *)memory;
	vfp_sys3(SYS_madvise, service, sizeof(*service), MADV_DONTFORK);
	service->connection.data = service->data;
	service->connection.known = known;
	if (vfp_hello(&service->connection, session, VFIOEMU_F_SERVICE)) {
		vfp_sys2(SYS_munmap, service, sizeof(*service));
		return;
	}
	/* A serving thread may end at any time, and its memory with it. */
	ours = service->connection;
	if (!start(service))
		vfp_say("no thread can be made to serve DMA memory");
	vfp_hang_up(&ours);
	errno = saved;
}
