/* SPDX-License-Identifier: MIT */
#include "vfe_guard.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#define PAGE_BYTES 4096 /* or a part of a larger one */

/* Reserved when the thread is made: a handler must not allocate it. */
static _Thread_local struct vfe_guard *current
	__attribute__((tls_model("initial-exec")));

static struct sigaction previous;

/* The same access will fault again, and find the default action. */
static void give_up(int number, int code)
{
	struct sigaction none = { .sa_handler = SIG_DFL };

	sigaction(number, &none, NULL);
	if (code <= 0)
		raise(number);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	struct vfe_guard *guard = current;

	if (guard && info->si_code > 0) { /* the kernel's: by an access */
		const ucontext_t *interrupted = context;

		/* A jump does not give back what is blocked here. */
		pthread_sigmask(SIG_SETMASK, &interrupted->uc_sigmask, NULL);
		siglongjmp(guard->place, 1);
	}
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(number, info, context);
	else if (previous.sa_handler == SIG_IGN && info->si_code <= 0)
		return; /* sent; a fault is not ignored by the kernel either */
	else if (previous.sa_handler == SIG_DFL ||
		 previous.sa_handler == SIG_IGN)
		give_up(number, info->si_code);
	else
		previous.sa_handler(number);
}

int vfe_guard_install(void)
{
	struct sigaction ours = { .sa_sigaction = on_fault,
				  .sa_flags = SA_SIGINFO };
	struct sigaction found;

	sigemptyset(&ours.sa_mask);
	if (sigaction(SIGBUS, NULL, &found))
		return errno;
	if (found.sa_flags & SA_SIGINFO && found.sa_sigaction == on_fault)
		return 0;
	previous = found;
	return sigaction(SIGBUS, &ours, NULL) ? errno : 0;
}

void vfe_guard_push(struct vfe_guard *guard)
{
	guard->outer = current;
	current = guard;
	/* The handler of this thread must see it before the next access. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void vfe_guard_leave(const struct vfe_guard *guard)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	current = guard->outer;
}

size_t vfe_guarded_copy(void *to, const void *from, size_t size,
			const void *shared)
{
	struct vfe_guard guard;
	volatile size_t done = 0;

	if (!vfe_guard_enter(&guard))
		while (done < size) {
			uintptr_t at = (uintptr_t)shared + done;
			size_t part = PAGE_BYTES - at % PAGE_BYTES;

			if (part > size - done)
				part = size - done;
			memcpy((char *)to + done, (const char *)from + done,
			       part);
			__atomic_signal_fence(__ATOMIC_SEQ_CST);
			done += part;
		}
	vfe_guard_leave(&guard);
	return done;
}
