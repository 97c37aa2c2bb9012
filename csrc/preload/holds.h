/* SPDX-License-Identifier: MIT */
/**
 * @file holds.h
 * Mappings of emulated files, each of which is a reference to its file, as a
 * VMA is in the kernel: the device stays open until the last page is unmapped,
 * in whatever way, by this process and by those that it forked.
 *
 * The reference is an fd of ours, a copy of the program's: a fork inherits it
 * with the mapping, and exit and exec close it when they unmap. The program
 * does not see it, no more than our connections.
 */
#ifndef VFP_HOLDS_H
#define VFP_HOLDS_H

#include "preload.h"

VFP_HIDDEN bool vfp_holds_init(void);

/**
 * mmap() of `fd` from `start` on, which shows what the daemon says of `file`:
 * the address, or a negative errno.
 */
VFP_HIDDEN int64_t vfp_hold_map(const struct vfp_file *file, void *address,
				size_t size, int prot, int flags, int fd,
				uint64_t start);

/** Whether an emulated file is mapped in [start, end). */
VFP_HIDDEN bool vfp_hold_is_in(uintptr_t start, uintptr_t end);

/** Mappings lie in [low, high). */
VFP_HIDDEN extern _Atomic uintptr_t vfp_held_low, vfp_held_high;

/** What a call may do to mappings. All zero: nothing. */
struct vfp_remap {
	uint64_t mask; /* of signals, while `locked` */
	bool locked;
};

/** [address, address + size) is about to be unmapped or replaced; `more` is
 * another such range. Every call is followed by vfp_hold_end(). */
VFP_HIDDEN void vfp_hold_begin_slow(struct vfp_remap *remap, uintptr_t address,
				    size_t size);
/** It was: forget what is there. */
VFP_HIDDEN void vfp_hold_cut(const struct vfp_remap *remap, const void *address,
			     size_t size);
/** What the kernel says to an mremap() of a device's mapping: it does not grow
 * (VM_DONTEXPAND), and leaves nothing where it was. 0, or a negative errno. */
VFP_HIDDEN int vfp_hold_refuses(const struct vfp_remap *remap, const void *from,
				size_t old_size, size_t size, int flags);
/** What was at `from` is at `address` now. */
VFP_HIDDEN void vfp_hold_moved(const struct vfp_remap *remap, const void *from,
			       size_t old_size, const void *address,
			       size_t size);
VFP_HIDDEN void vfp_hold_end_slow(struct vfp_remap *remap);
/** See vfp_hold_advise(); out of line. */
VFP_HIDDEN int vfp_hold_advise_slow(uintptr_t address, size_t size, int advice);
/** This is the child of a fork: what was not to be inherited has not been. */
VFP_HIDDEN void vfp_holds_forked(void);

/** What the kernel says to a madvise() of a device's mapping, whose memory
 * (VM_IO, VM_PFNMAP) is not the program's to give up. 0, or a negative errno.
 */
static inline int vfp_hold_advise(const void *memory, size_t size, int advice)
{
	uintptr_t address = (uintptr_t)memory;

	return VFP_RARE(address < atomic_load_explicit(&vfp_held_high,
						       memory_order_relaxed) &&
			address + size >
				atomic_load_explicit(&vfp_held_low,
						     memory_order_relaxed))
		       ? vfp_hold_advise_slow(address, size, advice)
		       : 0;
}

static inline void vfp_hold_begin(struct vfp_remap *remap, const void *memory,
				  size_t size)
{
	uintptr_t address = (uintptr_t)memory;

	if (VFP_RARE(address < atomic_load_explicit(&vfp_held_high,
						    memory_order_relaxed) &&
		     address + size >
			     atomic_load_explicit(&vfp_held_low,
						  memory_order_relaxed)))
		vfp_hold_begin_slow(remap, address, size);
}

static inline void vfp_hold_end(struct vfp_remap *remap)
{
	if (VFP_RARE(remap->locked))
		vfp_hold_end_slow(remap);
}

/** Move the fd of a hold off a number that the program wants, if one is there:
 * 0 or a negative errno. */
VFP_HIDDEN int vfp_hold_move(int fd);

#endif
