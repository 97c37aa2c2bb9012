/* SPDX-License-Identifier: MIT */
/**
 * @file lock.h
 * A lock that may lie in memory which a fork wipes: all zero is free. Whoever
 * takes it has blocked the signals of its thread.
 */
#ifndef VFP_LOCK_H
#define VFP_LOCK_H

#include <linux/futex.h>
#include <stdatomic.h>

#include "sys.h"

/** 0: free, 1: taken, 2: taken and perhaps waited for. */
typedef atomic_int vfp_lock;

static inline void vfp_lock_take(vfp_lock *lock)
{
	int state = 0;

	if (atomic_compare_exchange_strong(lock, &state, 1))
		return;
	while (atomic_exchange(lock, 2))
		vfp_sys4(SYS_futex, lock, FUTEX_WAIT_PRIVATE, 2, NULL);
}

static inline void vfp_lock_release(vfp_lock *lock)
{
	if (atomic_exchange(lock, 0) == 2)
		vfp_sys3(SYS_futex, lock, FUTEX_WAKE_PRIVATE, 1);
}

#endif
