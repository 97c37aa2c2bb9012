/* SPDX-License-Identifier: MIT */
/**
 * @file scratch.c
 * Room for names: a few pieces that are there from the beginning, and pages of
 * the system's where all of them are in use. One that a thread held while
 * another one forked stays in use in the child.
 */
#include "scratch.h"

#include <stdatomic.h>

#include "sys.h"

#ifndef PIECES /* a test has one */
#define PIECES 16
#endif

/* ThreadSanitizer sees what libc does with a piece, but no atomic of ours, and
 * not that a page has gone that another thread gets at the same place: a
 * program that it is in has these. */
extern void __tsan_acquire(void *) __attribute__((weak));
extern void __tsan_release(void *) __attribute__((weak));

static struct {
	_Alignas(16) char bytes[VFP_SCRATCH_SIZE];
} pieces[PIECES];
static atomic_bool in_use[PIECES];

void *vfp_scratch_take(void)
{
	for (size_t i = 0; i < PIECES; i++)
		if (!atomic_load_explicit(&in_use[i], memory_order_relaxed) &&
		    !atomic_exchange_explicit(&in_use[i], true,
					      memory_order_acquire)) {
			if (VFP_RARE(__tsan_acquire != NULL))
				__tsan_acquire(&pieces[i]);
			return &pieces[i];
		}
	long address =
		vfp_sys6(SYS_mmap, 0, VFP_SCRATCH_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (address < 0 && address > -4096)
		return NULL;
	if (VFP_RARE(__tsan_acquire != NULL))
		__tsan_acquire((void *)address);
	return (void *)address;
}

void vfp_scratch_drop(void *piece)
{
	uintptr_t offset = (uintptr_t)piece - (uintptr_t)pieces;

	if (piece && VFP_RARE(__tsan_release != NULL))
		__tsan_release(piece);
	if (offset < sizeof(pieces)) {
		atomic_store_explicit(&in_use[offset / sizeof(pieces[0])],
				      false, memory_order_release);
	} else if (piece)
		vfp_sys2(SYS_munmap, piece, VFP_SCRATCH_SIZE);
}
