/* SPDX-License-Identifier: MIT */
/**
 * @file hello.h
 * The greeting, and the service thread that it may call for.
 */
#ifndef VFP_HELLO_H
#define VFP_HELLO_H

#include "packet.h"

/** A session, as the greeting made it. */
struct vfp_session {
	_Atomic uint64_t id;	  /* 0: there is none */
	bool has_service;	  /* a service connection was tried for */
	_Atomic uint64_t memlock; /* RLIMIT_MEMLOCK as the daemon was told */
	atomic_bool ipc_lock;	  /* CAP_IPC_LOCK, likewise */
};

/**
 * Connect and greet: join `session`, or make one if its id is 0 or the daemon
 * does not know it any more.
 *
 * @param flags of the message.
 * @return 0 or a negative errno.
 */
VFP_HIDDEN int vfp_hello(struct vfp_connection *connection,
			 struct vfp_session *session, uint16_t flags);
/** What the daemon says of itself; NULL before the first greeting. */
VFP_HIDDEN const struct vfioemu_hello *vfp_greeting(void);

/** RLIMIT_MEMLOCK and CAP_IPC_LOCK as they are now. */
VFP_HIDDEN uint64_t vfp_memlock(void);
VFP_HIDDEN bool vfp_ipc_lock(void);

/** Serve DMA memory if the daemon wants that (service.c). The connection for it
 * is `known` until a thread has it for itself. */
VFP_HIDDEN void vfp_service_start(struct vfp_session *session,
				  struct vfp_known *known);

#endif
