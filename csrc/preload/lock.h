/* SPDX-License-Identifier: MIT */
/**
 * @file lock.h
 * A lock that may lie in memory which a fork wipes: all zero is free. Whoever
 * takes it has blocked the signals of its thread.
 */
#ifndef VFE_LOCK_H
#define VFE_LOCK_H

#include <linux/futex.h>
#include <stdatomic.h>

#include "sys.h"

/** 0: free, 1: taken, 2: taken and perhaps waited for. */
typedef atomic_int vfe_lock;

static inline void vfe_lock_take(vfe_lock *lock)
{
	int state = 0;

	if (atomic_compare_exchange_strong(lock, &state, 1))
		return;
	while (atomic_exchange(lock, 2))
		vfe_sys4(SYS_futex, lock, FUTEX_WAIT_PRIVATE, 2, NULL);
}

static inline void vfe_lock_release(vfe_lock *lock)
{
	if (atomic_exchange(lock, 0) == 2)
		vfe_sys3(SYS_futex, lock, FUTEX_WAKE_PRIVATE, 1);
}

#endif
