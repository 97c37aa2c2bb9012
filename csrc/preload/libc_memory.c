/* SPDX-License-Identifier: MIT */
/**
 * @file libc_memory.c
 * Overridden libc functions: those that change what is mapped where. Regions of
 * devices are mapped by the daemon's leave; and memory that was shared with it
 * is taken back before it becomes something else.
 */
#include <stdarg.h>

#include "preload.h"
#include "share.h"
#include "sys.h"

#define MMAP(name)                                                             \
	VFE_EXPORT void *name(void *address, size_t size, int prot, int flags, \
			      int fd, off_t offset)                            \
	{                                                                      \
		struct vfe_file file;                                          \
                                                                               \
		if (flags & MAP_FIXED)                                         \
			vfe_memory_goes(address, size);                        \
		if (!(flags & MAP_ANONYMOUS) && vfe_emulated(fd, &file))       \
			return vfe_mmap(&file, address, size, prot, flags,     \
					offset);                               \
		if (VFE_RARE(!vfe.next.name))                                  \
			return (void *)vfe_result(vfe_sys6(                    \
				SYS_mmap, VFE_ARG(address), VFE_ARG(size),     \
				prot, flags, fd, offset));                     \
		return vfe.next.name(address, size, prot, flags, fd, offset);  \
	}

MMAP(mmap)
MMAP(mmap64)

VFE_EXPORT int munmap(void *address, size_t size)
{
	vfe_memory_goes(address, size);
	if (VFE_RARE(!vfe.next.munmap))
		return (int)vfe_result(vfe_sys2(SYS_munmap, address, size));
	return vfe.next.munmap(address, size);
}

VFE_EXPORT int mprotect(void *address, size_t size, int prot)
{
	if ((prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
		vfe_memory_goes(address, size);
	if (VFE_RARE(!vfe.next.mprotect))
		return (int)vfe_result(
			vfe_sys3(SYS_mprotect, address, size, prot));
	return vfe.next.mprotect(address, size, prot);
}

VFE_EXPORT void *mremap(void *address, size_t size, size_t new_size, int flags,
			...)
{
	void *new_address = NULL;

	if (flags & MREMAP_FIXED) {
		va_list args;

		va_start(args, flags);
		new_address = va_arg(args, void *);
		va_end(args);
		vfe_memory_goes(new_address, new_size);
	}
	vfe_memory_goes(address, size);
	if (VFE_RARE(!vfe.next.mremap))
		return (void *)vfe_result(vfe_sys5(SYS_mremap, address, size,
						   new_size, flags,
						   new_address));
	return vfe.next.mremap(address, size, new_size, flags, new_address);
}
