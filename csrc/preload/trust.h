/* SPDX-License-Identifier: MIT */
/**
 * @file trust.h
 * Whose daemon is served with this program's memory and fds, and whose files
 * are shown to it: that user's whom VFIOEMU_UID names, or its own.
 *
 * A socket's name can be anybody's by the time a program uses it: a program
 * outlives `vfioemu run`, a directory in /tmp is made again by somebody else.
 */
#ifndef VFP_TRUST_H
#define VFP_TRUST_H

#include "preload.h"

/** The daemon at the socket is somebody else's. */
#define VFP_STRANGER (-EKEYREJECTED)

/**
 * Once.
 *
 * @param named VFIOEMU_UID: UID, as this program sees it; or UID:NAMESPACE, the
 * number in the user namespace with that inode number. NULL: `own`.
 */
VFP_HIDDEN void vfp_trust_init(const char *named, uid_t own);
/** What was named; NULL: nobody. */
VFP_HIDDEN const char *vfp_trust_named(void);
/** Whether it is the trusted user's process that listens at the other end of
 * this connection. */
VFP_HIDDEN bool vfp_trust_peer(int fd);
/** Whether the tree at vfp.root is there, the trusted user's, and nobody else
 * can write it. */
VFP_HIDDEN bool vfp_trust_root(void);
/** Whom the daemon should be of, as this program sees him; for a message. */
VFP_HIDDEN uid_t vfp_trust_uid(void);

#endif
