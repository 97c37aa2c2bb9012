/* SPDX-License-Identifier: MIT */
/**
 * @file kvm.h
 * What KVM's VFIO device is told of emulated files.
 */
#ifndef VFE_KVM_H
#define VFE_KVM_H

#include "preload.h"

/** Whether an ioctl tells KVM of an emulated file: then `*result` answers it.
 */
VFE_HIDDEN bool vfe_kvm_ioctl(int fd, unsigned long cmd, const void *arg,
			      int *result);

#endif
