/* SPDX-License-Identifier: MIT */
/**
 * @file service.c
 * A thread that serves DMA memory to a daemon that does not reach into other
 * processes (protocol/wire.md section 7). There is none otherwise.
 *
 * It is made with the session and ends with its connection. Its memory does not
 * come along in a fork (MADV_DONTFORK), nor does the thread.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "hello.h"
#include "sys.h"

#define STACK (256ul << 10)

struct service {
	struct vfe_connection connection;
	unsigned char data[VFIOEMU_MAX_DATA];
};

static void drop(struct service *service)
{
	vfe_hang_up(&service->connection);
	vfe_sys2(SYS_munmap, service, sizeof(*service));
}

static void *serve(void *argument)
{
	struct service *service = argument;

	vfe_sys2(SYS_prctl, PR_SET_NAME, "vfioemu");
	while (!vfe_receive(&service->connection) &&
	       !vfe_answer(&service->connection, NULL))
		;
	vfe_debug(VFE_DEBUG_SHIM, "the service ends");
	drop(service);
	return NULL;
}

void vfe_service_start(struct vfe_session *session, unsigned int index)
{
	pthread_attr_t attributes;
	pthread_t thread;
	struct service *service;
	long memory;
	int error;

	if (session->has_service ||
	    vfe_greeting()->memory_mode != VFIOEMU_MEMORY_ASK)
		return;
	session->has_service = true;
	memory = vfe_sys6(SYS_mmap, 0, sizeof(*service), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory < 0 && memory >= -4095)
		return;
	service = (struct service *)memory;
	vfe_sys3(SYS_madvise, service, sizeof(*service), MADV_DONTFORK);
	service->connection.data = service->data;
	if (vfe_hello(&service->connection, session, VFIOEMU_F_SERVICE)) {
		vfe_sys2(SYS_munmap, service, sizeof(*service));
		return;
	}
	vfe_note_connection(index, &service->connection);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK);
	error = pthread_create(&thread, &attributes, serve, service);
	if (error == EINVAL) /* much thread-local memory: the usual size */
		error = pthread_create(&thread, NULL, serve, service);
	pthread_attr_destroy(&attributes);
	if (error) {
		vfe_say("no thread to serve DMA memory (%d)", error);
		drop(service);
	}
}
