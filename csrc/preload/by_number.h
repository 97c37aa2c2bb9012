/* SPDX-License-Identifier: MIT */
/**
 * @file by_number.h
 * System calls that a program makes by number (libc_syscall.c).
 */
#ifndef VFP_BY_NUMBER_H
#define VFP_BY_NUMBER_H

#include "preload.h"

/** Those that change files, tell of file systems and execute programs: whether
 * `number` is one of them. */
VFP_HIDDEN bool vfp_change_call(long number, const long a[6], long *result);

/** The same of what lies at a path. */
VFP_HIDDEN bool vfp_path_call(long number, const long a[6], long *result);

#endif
