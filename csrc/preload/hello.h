/* SPDX-License-Identifier: MIT */
/**
 * @file hello.h
 * The greeting, and the service thread that it may call for.
 */
#ifndef VFE_HELLO_H
#define VFE_HELLO_H

#include "packet.h"

/** A session, as the greeting made it. */
struct vfe_session {
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
VFE_HIDDEN int vfe_hello(struct vfe_connection *connection,
			 struct vfe_session *session, uint16_t flags);
/** What the daemon says of itself; NULL before the first greeting. */
VFE_HIDDEN const struct vfioemu_hello *vfe_greeting(void);

/** RLIMIT_MEMLOCK and CAP_IPC_LOCK as they are now. */
VFE_HIDDEN uint64_t vfe_memlock(void);
VFE_HIDDEN bool vfe_ipc_lock(void);

/** Serve DMA memory if the daemon wants that (service.c). The connection for it
 * is `known` until a thread has it for itself. */
VFE_HIDDEN void vfe_service_start(struct vfe_session *session,
				  struct vfe_known *known);

#endif
