/* SPDX-License-Identifier: MIT */
/**
 * @file libc_memory.c
 * Overridden libc functions: those that change what is mapped where. Regions of
 * devices are mapped by the daemon's leave; and memory that was shared with it
 * is taken back before it becomes something else. And again afterwards: another
 * thread may have shared it in between, as what it was.
 */
#include <stdarg.h>
#include <sys/mman.h>

#include "dma.h"
#include "holds.h"
#include "maps.h"
#include "preload.h"
#include "share.h"
#include "sys.h"
#include "text.h"

/* What is there will be something else, or be gone. */
static void goes(const void *address, size_t size)
{
	vfp_memory_goes(address, size);
	vfp_text_goes((uintptr_t)address, size);
}

#define HUGEST (16ul << 30) /* pages that hugetlbfs has, in bytes */

/* Whether a call may concern anything that is to be told of, if its pages are
 * huge: only then it is asked whether they are. */
static bool may_touch(const void *memory, size_t size)
{
	uintptr_t address = (uintptr_t)memory, end;

	if (__builtin_add_overflow(address, size, &end) ||
	    __builtin_add_overflow(end, HUGEST, &end))
		return false;
	return vfp_dma_touches(memory, end - address) ||
	       VFP_RARE(address < atomic_load_explicit(&vfp_held_high,
						       memory_order_relaxed) &&
			end > atomic_load_explicit(&vfp_held_low,
						   memory_order_relaxed));
}

static void *map(const struct vfp_file *file, void *address, size_t size,
		 int prot, int flags, int fd, off_t offset,
		 __typeof__(mmap) *next)
{
	if (file)
		return vfp_mmap(file, address, size, prot, flags, offset);
	if (VFP_RARE(!next))
		return (void *)vfp_result(vfp_sys6(SYS_mmap, VFP_ARG(address),
						   VFP_ARG(size), prot, flags,
						   fd, offset));
	return next(address, size, prot, flags, fd, offset);
}

#define MMAP(name)                                                             \
	VFP_EXPORT void *name(void *address, size_t size, int prot, int flags, \
			      int fd, off_t offset)                            \
	{                                                                      \
		struct vfp_file file;                                          \
		bool ours =                                                    \
			!(flags & MAP_ANONYMOUS) && vfp_emulated(fd, &file);   \
		bool replaces =                                                \
			flags & MAP_FIXED &&                                   \
			(flags & MAP_FIXED_NOREPLACE) != MAP_FIXED_NOREPLACE;  \
		size_t covers = flags & MAP_FIXED && may_touch(address, size)  \
					? vfp_maps_covers(size, flags, fd)     \
					: size;                                \
		bool kept = replaces &&                                        \
			    vfp_dma_goes(address, covers, VFIOEMU_UNMAPPED);   \
		struct vfp_remap remap = { 0 };                                \
		void *result;                                                  \
                                                                               \
		if (flags & MAP_FIXED) {                                       \
			if (!ours)                                             \
				vfp_hold_begin(&remap, address, covers);       \
			goes(address, covers);                                 \
		}                                                              \
		result = map(ours ? &file : NULL, address, size, prot, flags,  \
			     fd, offset, vfp.next.name);                       \
		if (flags & MAP_FIXED) {                                       \
			goes(address, covers);                                 \
			if (result != MAP_FAILED)                              \
				vfp_hold_cut(&remap, address, covers);         \
			vfp_hold_end(&remap);                                  \
		}                                                              \
		if (VFP_RARE(kept) && result == MAP_FAILED)                    \
			vfp_dma_returns((uintptr_t)address, covers,            \
					(uintptr_t)address);                   \
		return result;                                                 \
	}

MMAP(mmap)
MMAP(mmap64)

VFP_EXPORT int munmap(void *address, size_t size)
{
	bool kept = vfp_dma_goes(address, size, VFIOEMU_UNMAPPED);
	struct vfp_remap remap = { 0 };
	int result;

	vfp_hold_begin(&remap, address, size);
	goes(address, size);
	result = VFP_NEXT(munmap, SYS_munmap, address, size);
	goes(address, size);
	if (!result)
		vfp_hold_cut(&remap, address, size);
	vfp_hold_end(&remap);
	if (VFP_RARE(kept) && result)
		vfp_dma_returns((uintptr_t)address, size, (uintptr_t)address);
	return result;
}

static bool takes(int prot)
{
	return (prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE);
}

VFP_EXPORT int mprotect(void *address, size_t size, int prot)
{
	int result;

	if (takes(prot))
		goes(address, size);
	result = VFP_NEXT(mprotect, SYS_mprotect, address, size, prot);
	if (takes(prot))
		goes(address, size);
	return result;
}

VFP_EXPORT int pkey_mprotect(void *address, size_t size, int prot, int key)
{
	int result;

	if (takes(prot))
		goes(address, size);
	result = VFP_NEXT(pkey_mprotect, SYS_pkey_mprotect, address, size, prot,
			  key);
	if (takes(prot))
		goes(address, size);
	return result;
}

VFP_EXPORT void *mremap(void *address, size_t size, size_t new_size, int flags,
			...)
{
	void *new_address = NULL, *result;
	struct vfp_remap remap = { 0 };
	bool kept, replaced = false;
	size_t was = size, will_be = new_size; /* as they were given */
	int refused;

	if (flags & MREMAP_FIXED) {
		va_list args;

		va_start(args, flags);
		new_address = va_arg(args, void *);
		va_end(args);
	}
	if (may_touch(address, size) || may_touch(new_address, new_size)) {
		size = vfp_maps_moves(address, size);
		new_size = vfp_maps_moves(address, new_size);
	}
	if (flags & MREMAP_FIXED)
		replaced =
			vfp_dma_goes(new_address, new_size, VFIOEMU_UNMAPPED);
	kept = vfp_dma_goes(address, size, VFIOEMU_MOVED);
	if (flags & MREMAP_FIXED) {
		vfp_hold_begin(&remap, new_address, new_size);
		goes(new_address, new_size);
	}
	vfp_hold_begin(&remap, address, size ? size : 1);
	goes(address, size);
	refused = vfp_hold_refuses(&remap, address, size, new_size, flags);
	result = refused ? (void *)vfp_result(refused)
			 : VFP_NEXT(mremap, SYS_mremap, address, was, will_be,
				    flags, new_address);
	goes(address, size);
	if (flags & MREMAP_FIXED)
		goes(new_address, new_size);
	if (result != MAP_FAILED)
		vfp_hold_moved(&remap, address, size, result, new_size);
	vfp_hold_end(&remap);
	if (VFP_RARE(replaced) && result == MAP_FAILED)
		vfp_dma_returns((uintptr_t)new_address, new_size,
				(uintptr_t)new_address);
	if (VFP_RARE(kept))
		vfp_dma_returns((uintptr_t)address,
				result != MAP_FAILED && new_size < size
					? new_size
					: size,
				result != MAP_FAILED ? (uintptr_t)result
						     : (uintptr_t)address);
	return result;
}

VFP_EXPORT int madvise(void *address, size_t size, int advice)
{
	int result = vfp_hold_advise(address, size, advice);

	if (VFP_RARE(result) || vfp_dma_advise(address, size, advice, &result))
		return (int)vfp_result(result);
	return VFP_NEXT(madvise, SYS_madvise, address, size, advice);
}

/* Which part of a file a call of fallocate() gives up: its beginning and size.
 */
static bool gives_up(int mode, off_t offset, off_t size, uint64_t part[2])
{
	const int shifts = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;
	const int zeroes = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;

	if (offset < 0 || size <= 0 || !(mode & (zeroes | shifts)))
		return false;
	part[0] = (uint64_t)offset;
	part[1] =
		mode & shifts ? (uint64_t)(INT64_MAX - offset) : (uint64_t)size;
	return true;
}

#define FALLOCATE(name)                                                        \
	VFP_EXPORT int name(int fd, int mode, off_t offset, off_t size)        \
	{                                                                      \
		uint64_t part[2] = { 0, 0 };                                   \
		bool kept = mode && gives_up(mode, offset, size, part) &&      \
			    vfp_dma_hole(fd, part[0], part[1], false);         \
		int result =                                                   \
			VFP_NEXT(name, SYS_fallocate, fd, mode, offset, size); \
                                                                               \
		if (VFP_RARE(kept) && result)                                  \
			vfp_dma_hole(fd, part[0], part[1], true);              \
		return result;                                                 \
	}

FALLOCATE(fallocate)
FALLOCATE(fallocate64)
