/* SPDX-License-Identifier: MIT */
/**
 * @file offer.h
 * Memory that goes along with a call and saves the daemon a question
 * (protocol/wire.md section 4, "Offered bytes").
 *
 * Nothing is offered that the program does not own: what lies behind the
 * argument of an ioctl may belong to another thread, and would be put back as
 * it was when the call began.
 */
#ifndef VFP_OFFER_H
#define VFP_OFFER_H

#include "call.h"

/** What an ioctl reads and writes at its argument. */
VFP_HIDDEN void vfp_offer_ioctl(const struct vfp_file *file, unsigned int cmd,
				void *arg, struct vfp_call *call);
/** Where a read puts what it has read. */
VFP_HIDDEN void vfp_offer_room(void *data, size_t size, struct vfp_call *call);

#endif
