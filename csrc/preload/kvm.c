/* SPDX-License-Identifier: MIT */
/**
 * @file kvm.c
 * KVM's VFIO device, which VMMs tell of each group or device that they use: it
 * is in the kernel, which knows nothing of emulated fds. What it does with them
 * (coherency, what a guest may cache) does not concern emulated devices.
 */
#include "kvm.h"

#include <errno.h>
#include <linux/kvm.h>

#include "sys.h"

bool vfp_kvm_ioctl(int fd, unsigned long cmd, const void *arg, int *result)
{
	struct kvm_device_attr attr;
	struct vfp_file file;
	int number;

	if ((unsigned int)cmd != KVM_SET_DEVICE_ATTR || !vfp.active ||
	    vfp_copy_in(&attr, arg, sizeof(attr)) ||
	    attr.group != KVM_DEV_VFIO_GROUP ||
	    (attr.attr != KVM_DEV_VFIO_GROUP_ADD &&
	     attr.attr != KVM_DEV_VFIO_GROUP_DEL) ||
	    vfp_copy_in(&number, (const void *)(uintptr_t)attr.addr,
			sizeof(number)) ||
	    !vfp_emulated(number, &file))
		return false;
	/* It is such a device, as far as KVM has any. */
	long error = vfp_sys3(SYS_ioctl, fd, KVM_HAS_DEVICE_ATTR, &attr);

	if (!error && file.kind == VFP_OTHER)
		error = -EBADF;
	else if (!error && file.kind != VFP_GROUP && file.kind != VFP_DEVICE)
		error = -EINVAL; /* kvm_vfio_file_is_valid() */
	*result = (int)vfp_result(error);
	return true;
}
