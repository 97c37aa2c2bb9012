/* SPDX-License-Identifier: MIT */
/**
 * @file kvm.h
 * What KVM's VFIO device is told of emulated files.
 */
#ifndef VFP_KVM_H
#define VFP_KVM_H

#include "preload.h"

/** Whether an ioctl tells KVM of an emulated file: then `*result` answers it.
 */
VFP_HIDDEN bool vfp_kvm_ioctl(int fd, unsigned long cmd, const void *arg,
			      int *result);

#endif
