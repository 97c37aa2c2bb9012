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
 * All of this lives in memory that a fork wipes (MADV_WIPEONFORK): a child, in
 * whatever way it was made, starts without a session and makes its own. A child
 * of vfork(), which has our very memory but another pid, makes one for each of
 * its calls.
 */
#ifndef VFE_SESSION_H
#define VFE_SESSION_H

#include "hello.h"
#include "packet.h"
#include "preload.h"

#define VFE_CONNECTIONS 64

VFE_HIDDEN void vfe_session_init(void);
/** Whether that is the id of our daemon. Connects to it if need be. */
VFE_HIDDEN bool vfe_session_is(const uint8_t id[16]);
/** Whether this process is the one whose memory this is (not after vfork()). */
VFE_HIDDEN bool vfe_session_is_ours(void);

/** The session, made if need be; NULL if there is none, or after vfork(). */
VFE_HIDDEN struct vfe_session *vfe_session_here(void);
/** Zeroes, and again in a child after a fork; NULL if there is no memory. */
VFE_HIDDEN void *vfe_wiped_memory(size_t size);

/**
 * A connection for one call of this thread, whose signals are blocked; NULL
 * when there is no daemon. Put it back, `lost` if it is of no use any more.
 */
VFE_HIDDEN struct vfe_connection *vfe_connection_get(void);
VFE_HIDDEN void vfe_connection_put(struct vfe_connection *connection,
				   bool lost);

/**
 * Move one of our fds off a number that the program wants: 0 or a
 * negative errno.
 */
VFE_HIDDEN int vfe_connection_move(int fd);
/** The lowest number from `first` on of an fd of ours, or UINT64_MAX. */
VFE_HIDDEN uint64_t vfe_next_connection(uint64_t first);

/** All signals of this thread, blocked for as long as it talks to the daemon:
 * a handler that made a call would find things half done. */
VFE_HIDDEN uint64_t vfe_signals_block(void);
VFE_HIDDEN void vfe_signals_restore(uint64_t mask);

#endif
