/* SPDX-License-Identifier: MIT */
/**
 * @file call.h
 * One call to the daemon.
 */
#ifndef VFP_CALL_H
#define VFP_CALL_H

#include "packet.h"

/** A call: what it takes and gives besides its header. */
struct vfp_call {
	struct vfioemu_msg msg;
	const void *out; /* offered with the call; need not be readable */
	size_t out_size;
	void *in; /* where the data of the reply goes, at its offset */
	size_t in_size;
	int token;	   /* the fd that the call is about; -1: none */
	int out_fd;	   /* that goes with the message; -1: none */
	bool wants_fd;	   /* with a reply of success */
	uint16_t flags;	   /* of the reply */
	int in_fd;	   /* that came with the reply, or -1 */
	uint64_t in_start; /* where in that file the part asked for begins */
	uint64_t in_more;  /* arg[2] of the reply */
};

/**
 * Make a call and serve what is asked meanwhile. Not interrupted by signals.
 *
 * @return its result, >= 0 or a negative errno; -EIO if the daemon is gone.
 */
VFP_HIDDEN int64_t vfp_call(struct vfp_call *call);

#endif
