/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Access to memory that may go away: a file that somebody else can truncate
 * under our mapping answers with SIGBUS. Between vfe_guard_enter() and
 * vfe_guard_leave() it answers by coming back from vfe_guard_enter() again.
 *
 * A guard belongs to one thread. Guards may be nested. Outside of them, and
 * for a SIGBUS that somebody sends, whoever handled the signal before does.
 */
#ifndef VFE_GUARD_H
#define VFE_GUARD_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>

struct vfe_guard {
	sigjmp_buf place;
	struct vfe_guard *outer;
};

/**
 * Handle SIGBUS from now on; again if somebody else has come to handle it
 * meanwhile. Not for two threads at once. @return 0, or an errno.
 */
int vfe_guard_install(void);

/** This thread's guard is `guard`; part of vfe_guard_enter(). */
void vfe_guard_push(struct vfe_guard *guard);

/**
 * False: go on. True: the memory that was being accessed is not there. What
 * the enclosing function has changed since must be volatile.
 */
#define vfe_guard_enter(guard) \
	(vfe_guard_push(guard), sigsetjmp((guard)->place, 0) != 0)

void vfe_guard_leave(const struct vfe_guard *guard);

/**
 * memcpy() from or to memory that may go away.
 * @return how many leading bytes are copied, in whole pages of the side that
 * failed: `size`, or the first page that is not there begins there.
 */
size_t vfe_guarded_copy(void *to, const void *from, size_t size,
			const void *shared);

#endif
