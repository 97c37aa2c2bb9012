/* SPDX-License-Identifier: MIT */
/**
 * @file offer.c
 * How much of a program's memory a call may be sent with.
 */
#include "offer.h"

#include <linux/vfio.h>

#define MOST 1024u

static void offer(void *data, size_t size, struct vfp_call *call)
{
	call->out = data;
	call->out_size = size;
	if (!vfp_writable(data, size))
		return;
	call->in = data;
	call->in_size = size;
	call->msg.flags |= VFIOEMU_F_WRITABLE;
}

void vfp_offer_ioctl(const struct vfp_file *file, unsigned int cmd, void *arg,
		     struct vfp_call *call)
{
	uint32_t argsz;

	if (_IOC_TYPE(cmd) != VFIO_TYPE || (uintptr_t)arg < 4096)
		return;
	/* Numbers mean different things on different files. */
	if (file->kind == VFP_CONTAINER &&
	    (cmd == VFIO_GET_API_VERSION || cmd == VFIO_CHECK_EXTENSION ||
	     cmd == VFIO_SET_IOMMU))
		return;
	if (file->kind == VFP_GROUP && cmd != VFIO_GROUP_GET_STATUS)
		return;
	if (file->kind == VFP_DEVICE && cmd == VFIO_DEVICE_RESET)
		return;
	/* All others have their size in front. */
	if (vfp_copy_in(&argsz, arg, sizeof(argsz)) || argsz < sizeof(argsz))
		return;
	offer(arg, argsz < MOST ? argsz : MOST, call);
}

void vfp_offer_room(void *data, size_t size, struct vfp_call *call)
{
	if (size > VFIOEMU_MAX_DATA)
		size = VFIOEMU_MAX_DATA;
	if (!vfp_writable(data, size))
		return;
	call->in = data;
	call->in_size = size;
	call->msg.flags |= VFIOEMU_F_WRITABLE;
}
