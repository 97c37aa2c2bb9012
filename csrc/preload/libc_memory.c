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

#include "holds.h"
#include "preload.h"
#include "share.h"
#include "sys.h"
#include "text.h"

/* What is there will be something else, or be gone. */
static void goes(const void *address, size_t size)
{
	vfe_memory_goes(address, size);
	vfe_text_goes((uintptr_t)address, size);
}

static void *map(const struct vfe_file *file, void *address, size_t size,
		 int prot, int flags, int fd, off_t offset,
		 __typeof__(mmap) *next)
{
	if (file)
		return vfe_mmap(file, address, size, prot, flags, offset);
	if (VFE_RARE(!next))
		return (void *)vfe_result(vfe_sys6(SYS_mmap, VFE_ARG(address),
						   VFE_ARG(size), prot, flags,
						   fd, offset));
	return next(address, size, prot, flags, fd, offset);
}

#define MMAP(name)                                                             \
	VFE_EXPORT void *name(void *address, size_t size, int prot, int flags, \
			      int fd, off_t offset)                            \
	{                                                                      \
		struct vfe_file file;                                          \
		bool ours =                                                    \
			!(flags & MAP_ANONYMOUS) && vfe_emulated(fd, &file);   \
		struct vfe_remap remap = { 0 };                                \
		void *result;                                                  \
                                                                               \
		if (flags & MAP_FIXED) {                                       \
			if (!ours)                                             \
				vfe_hold_begin(&remap, address, size);         \
			goes(address, size);                                   \
		}                                                              \
		result = map(ours ? &file : NULL, address, size, prot, flags,  \
			     fd, offset, vfe.next.name);                       \
		if (flags & MAP_FIXED) {                                       \
			goes(address, size);                                   \
			if (result != MAP_FAILED)                              \
				vfe_hold_cut(&remap, address, size);           \
			vfe_hold_end(&remap);                                  \
		}                                                              \
		return result;                                                 \
	}

MMAP(mmap)
MMAP(mmap64)

VFE_EXPORT int munmap(void *address, size_t size)
{
	struct vfe_remap remap = { 0 };
	int result;

	vfe_hold_begin(&remap, address, size);
	goes(address, size);
	result = VFE_NEXT(munmap, SYS_munmap, address, size);
	goes(address, size);
	if (!result)
		vfe_hold_cut(&remap, address, size);
	vfe_hold_end(&remap);
	return result;
}

VFE_EXPORT int mprotect(void *address, size_t size, int prot)
{
	bool taken =
		(prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE);
	int result;

	if (taken)
		goes(address, size);
	result = VFE_NEXT(mprotect, SYS_mprotect, address, size, prot);
	if (taken)
		goes(address, size);
	return result;
}

VFE_EXPORT void *mremap(void *address, size_t size, size_t new_size, int flags,
			...)
{
	void *new_address = NULL, *result;
	struct vfe_remap remap = { 0 };

	if (flags & MREMAP_FIXED) {
		va_list args;

		va_start(args, flags);
		new_address = va_arg(args, void *);
		va_end(args);
		vfe_hold_begin(&remap, new_address, new_size);
		goes(new_address, new_size);
	}
	/* An old size of 0 maps shared pages a second time. */
	vfe_hold_begin(&remap, address, size ? size : 1);
	goes(address, size);
	result = VFE_NEXT(mremap, SYS_mremap, address, size, new_size, flags,
			  new_address);
	goes(address, size);
	if (flags & MREMAP_FIXED)
		goes(new_address, new_size);
	if (result != MAP_FAILED)
		vfe_hold_moved(&remap, address, size, result, new_size,
			       !size || flags & MREMAP_DONTUNMAP);
	vfe_hold_end(&remap);
	return result;
}
