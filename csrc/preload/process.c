/* SPDX-License-Identifier: MIT */
/**
 * @file process.c
 * Which process this is, and memory that is about it alone.
 */
#include "process.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "lock.h"
#include "own.h"
#include "sys.h"

/** What a fork wipes. All zero: a process that has not looked at it yet. */
static struct process {
	atomic_int pid;
	vfp_lock lock; /* of finding that out */
} *process;

uint64_t vfp_signals_block(void)
{
	uint64_t all = ~UINT64_C(0), mask = 0;

	vfp_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof(mask));
	return mask;
}

void vfp_signals_restore(uint64_t mask)
{
	vfp_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

void *vfp_wiped_memory(size_t size)
{
	long memory =
		vfp_sys6(SYS_mmap, 0, VFP_ARG(size), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory < 0 && memory >= -4095)
		return NULL;
	vfp_sys3(SYS_madvise, memory, size, MADV_WIPEONFORK);
	return (void *)memory;
}

/* Close what a parent was connected by. */
static void disown(struct vfp_known *known)
{
	int fd = vfp_own_number(known);

	atomic_store(&known->number, 0);
	if (fd >= 0)
		vfp_sys1(SYS_close, fd);
}

/* A process looks at its memory for the first time. */
static void begin(void)
{
	uint64_t mask = vfp_signals_block();

	vfp_lock_take(&process->lock);
	if (!atomic_load(&process->pid)) {
		for (unsigned int i = 0; i < VFP_CONNECTIONS; i++)
			disown(&vfp_own_connections[i]);
		disown(&vfp_own_service);
		atomic_store(&process->pid, (int)vfp_sys0(SYS_getpid));
		vfp_debug(VFP_DEBUG_SHIM, "process %d",
			  atomic_load(&process->pid));
	}
	vfp_lock_release(&process->lock);
	vfp_signals_restore(mask);
}

bool vfp_process_is_ours(void)
{
	if (VFP_RARE(!atomic_load(&process->pid)))
		begin();
	return atomic_load(&process->pid) == (int)vfp_sys0(SYS_getpid);
}

bool vfp_process_is_copied(void)
{
	int pid = atomic_load(&process->pid);

	return pid && pid != (int)vfp_sys0(SYS_getpid);
}

void vfp_process_forked(void)
{
	if (vfp_process_is_copied())
		memset(process, 0, sizeof(*process));
	vfp_process_is_ours();
}

bool vfp_process_init(void)
{
	process = vfp_wiped_memory(sizeof(*process));
	if (process)
		vfp_process_is_ours(); /* before a child of vfork() says so */
	return process;
}
