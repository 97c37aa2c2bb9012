/* SPDX-License-Identifier: MIT */
/**
 * @file memory.c
 * Our own memory at addresses that the daemon names. A plain access could
 * raise SIGSEGV; /proc/self/mem would ignore protections. So the kernel copies:
 * process_vm_readv() on ourselves, or where that is refused (seccomp) a pipe,
 * or where there is none either, we do it, page by page, after having asked.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "maps.h"
#include "preload.h"
#include "sys.h"
#include "text.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096ul

/*
 * Whether what can be read, within a page, can be written to: rt_sigprocmask()
 * writes what our mask is. Inside, if there is room; else also to what is
 * beside it, which gets back what it had.
 */
static bool can_be_written(const char *to, size_t size)
{
	uintptr_t at = ((uintptr_t)to + 7) & ~7ul;
	uint64_t saved;
	long error;

	if (at + sizeof(saved) > (uintptr_t)to + size)
		at = (uintptr_t)to & ~7ul;
	memcpy(&saved, (const void *)at, sizeof(saved));
	error = vfp_sys4(SYS_rt_sigprocmask, SIG_BLOCK, NULL, at,
			 sizeof(saved));
	if (!error)
		memcpy((void *)at, &saved, sizeof(saved));
	return !error;
}

static int copy_by_hand(char *ours, char *theirs, size_t size, bool out)
{
	while (size) {
		size_t part = PAGE - ((uintptr_t)theirs & (PAGE - 1));

		part = part < size ? part : size;
		if (!vfp_is_readable((uintptr_t)theirs) ||
		    (out && !can_be_written(theirs, part)))
			return -EFAULT;
		memcpy(out ? theirs : ours, out ? ours : theirs, part);
		ours += part;
		theirs += part;
		size -= part;
	}
	return 0;
}

/* Through a pipe, a page at a time, which it always has room for. */
static int copy_by_pipe(char *to, const char *from, size_t size)
{
	int ends[2];
	int error = 0;

	if (vfp_sys2(SYS_pipe2, ends, O_CLOEXEC) < 0)
		return -ENOSYS;
	while (size && !error) {
		size_t part = size < PAGE ? size : PAGE;

		if (vfp_sys3(SYS_write, ends[1], from, part) != (long)part ||
		    vfp_sys3(SYS_read, ends[0], to, part) != (long)part)
			error = -EFAULT;
		from += part;
		to += part;
		size -= part;
	}
	vfp_sys1(SYS_close, ends[0]);
	vfp_sys1(SYS_close, ends[1]);
	return error;
}

static int otherwise(char *ours, char *theirs, size_t size, bool out)
{
	int error = out ? copy_by_pipe(theirs, ours, size)
			: copy_by_pipe(ours, theirs, size);

	return error == -ENOSYS ? copy_by_hand(ours, theirs, size, out) : error;
}

static int copy(long call, char *ours, const char *theirs, size_t size)
{
	bool out = call == SYS_process_vm_writev;
	long pid = vfp_sys0(SYS_getpid);

	while (size) {
		struct iovec local = { ours, size };
		struct iovec remote = { (void *)(uintptr_t)theirs, size };
		long done = vfp_sys6(call, pid, VFP_ARG(&local), 1,
				     VFP_ARG(&remote), 1, 0);

		if (done < 0 && done != -EFAULT) /* refused, by whomever */
			return otherwise(ours, (char *)(uintptr_t)theirs, size,
					 out);
		if (done <= 0)
			return -EFAULT;
		ours += done;
		theirs += done;
		size -= (size_t)done;
	}
	return 0;
}

int vfp_copy_in(void *to, const void *from, size_t size)
{
	return copy(SYS_process_vm_readv, to, from, size);
}

int vfp_copy_out(void *to, const void *from, size_t size)
{
	return copy(SYS_process_vm_writev, (char *)(uintptr_t)from, to, size);
}

/* Whether there is memory all the way, and no code: that was not pinned. */
static bool was_data(const void *address, size_t size)
{
	uint64_t at = (uintptr_t)address, end = at + size;
	int maps = vfp_maps_open();
	struct vfp_area area;

	if (maps < 0)
		return false;
	while (at < end && vfp_maps_find(maps, at, &area) && area.start <= at &&
	       !area.code)
		at = area.end;
	vfp_sys1(SYS_close, maps);
	return at >= end;
}

/* By /proc/self/mem, which looks at no protection. */
static int by_force(void *address, void *data, size_t size, bool out)
{
	long done = -1;
	int mem;

	if (!was_data(address, size))
		return -EFAULT;
	mem = (int)vfp_sys4(SYS_openat, AT_FDCWD, "/proc/self/mem",
			    (out ? O_WRONLY : O_RDONLY) | O_CLOEXEC, 0);
	if (mem < 0)
		return -EFAULT;
	done = vfp_sys4(out ? SYS_pwrite64 : SYS_pread64, mem, data, size,
			VFP_ARG(address));
	vfp_sys1(SYS_close, mem);
	return done == (long)size ? 0 : -EFAULT;
}

int vfp_pinned_in(void *to, const void *from, size_t size)
{
	if (!vfp_copy_in(to, from, size))
		return 0;
	return by_force((void *)(uintptr_t)from, to, size, false);
}

int vfp_pinned_out(void *to, const void *from, size_t size)
{
	if (!vfp_copy_out(to, from, size))
		return 0;
	return by_force(to, (void *)(uintptr_t)from, size, true);
}

size_t vfp_populate(const void *address, size_t npages, bool write)
{
	uintptr_t start = (uintptr_t)address & ~(PAGE - 1);
	size_t done = 0, step = npages;

	if (npages > (UINTPTR_MAX - start) / PAGE)
		return 0;
	/* All at once; where that fails, halves of what is left. */
	while (step) {
		long error = vfp_sys3(
			SYS_madvise, start + done * PAGE, step * PAGE,
			write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);

		if (error == -EINTR || error == -EAGAIN)
			continue;
		if (!error)
			done += step;
		else
			step /= 2;
		if (step > npages - done)
			step = npages - done;
	}
	return done;
}

bool vfp_writable(void *address, size_t size)
{
	uintptr_t start = (uintptr_t)address & ~(PAGE - 1);
	uintptr_t end;

	if (!size || __builtin_add_overflow((uintptr_t)address, size, &end))
		return false;
	return !vfp_sys3(SYS_madvise, start, end - start, MADV_POPULATE_WRITE);
}
