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
#ifndef VFE_OFFER_H
#define VFE_OFFER_H

#include "call.h"

/** What an ioctl reads and writes at its argument. */
VFE_HIDDEN void vfe_offer_ioctl(const struct vfe_file *file, unsigned int cmd,
				void *arg, struct vfe_call *call);
/** Where a read puts what it has read. */
VFE_HIDDEN void vfe_offer_room(void *data, size_t size, struct vfe_call *call);

#endif
