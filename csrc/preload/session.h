/* SPDX-License-Identifier: MIT */
/**
 * @file session.h
 * This process as the daemon sees it: a session, and the connections on which
 * its threads make calls (protocol/wire.md section 3).
 *
 * A thread takes a connection for one call and puts it back. So there are as
 * many as there were calls at the same time, at most what the daemon allows;
 * then a thread waits for one.
 *
 * All of this lives in memory that a fork wipes (process.h): a child, in
 * whatever way it was made, starts without a session and makes its own. A child
 * of vfork(), which has our very memory but another pid, makes one for each of
 * its calls.
 */
#ifndef VFP_SESSION_H
#define VFP_SESSION_H

#include "hello.h"
#include "packet.h"
#include "preload.h"

/** Once: false if there is no memory. */
VFP_HIDDEN bool vfp_session_init(void);
/** In the child of fork(). */
VFP_HIDDEN void vfp_session_forked(void);
/** Whether that is the id of our daemon. Connects to it if need be. */
VFP_HIDDEN bool vfp_session_is(const uint8_t id[16]);

/** The session, made if need be; NULL if there is none, or after vfork(). */
VFP_HIDDEN struct vfp_session *vfp_session_here(void);

/**
 * A connection for one call of this thread, whose signals are blocked; NULL
 * when there is no daemon. Put it back, `lost` if it is of no use any more.
 */
VFP_HIDDEN struct vfp_connection *vfp_connection_get(void);
VFP_HIDDEN void vfp_connection_put(struct vfp_connection *connection,
				   bool lost);

/**
 * Move a connection off a number that the program wants, if one is there: 0 or
 * a negative errno.
 */
VFP_HIDDEN int vfp_connection_move(int fd);

#endif
