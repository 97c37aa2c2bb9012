/* SPDX-License-Identifier: MIT */
/**
 * @file libc_io.c
 * Overridden libc functions: ioctl, reading and writing. Those with vectors
 * are in libc_vector.c.
 */
#include <stdarg.h>

#include "kvm.h"
#include "preload.h"
#include "sys.h"

VFE_EXPORT int ioctl(int fd, unsigned long cmd, ...)
{
	struct vfe_file file;
	va_list args;
	void *arg;
	int result;

	va_start(args, cmd);
	arg = va_arg(args, void *);
	va_end(args);
	if (vfe_emulated(fd, &file))
		return vfe_ioctl(&file, cmd, arg);
	if (VFE_RARE(vfe_kvm_ioctl(fd, cmd, arg, &result)))
		return result;
	if (VFE_RARE(!vfe.next.ioctl))
		return (int)vfe_result(vfe_sys3(SYS_ioctl, fd, cmd, arg));
	return vfe.next.ioctl(fd, cmd, arg);
}

VFE_EXPORT ssize_t read(int fd, void *data, size_t size)
{
	struct vfe_file file;

	if (vfe_emulated(fd, &file))
		return vfe_read(&file, data, size);
	if (VFE_RARE(!vfe.next.read))
		return vfe_result(vfe_sys3(SYS_read, fd, data, size));
	return vfe.next.read(fd, data, size);
}

VFE_EXPORT ssize_t write(int fd, const void *data, size_t size)
{
	struct vfe_file file;

	if (vfe_emulated(fd, &file))
		return vfe_write(&file, data, size);
	if (VFE_RARE(!vfe.next.write))
		return vfe_result(vfe_sys3(SYS_write, fd, data, size));
	return vfe.next.write(fd, data, size);
}

#define PREAD(name)                                                            \
	VFE_EXPORT ssize_t name(int fd, void *data, size_t size, off_t offset) \
	{                                                                      \
		struct vfe_file file;                                          \
                                                                               \
		if (vfe_emulated(fd, &file))                                   \
			return vfe_pread(&file, data, size, offset);           \
		if (VFE_RARE(!vfe.next.name))                                  \
			return vfe_result(vfe_sys4(SYS_pread64, fd, data,      \
						   size, offset));             \
		return vfe.next.name(fd, data, size, offset);                  \
	}

PREAD(pread)
PREAD(pread64)

#define PWRITE(name)                                                       \
	VFE_EXPORT ssize_t name(int fd, const void *data, size_t size,     \
				off_t offset)                              \
	{                                                                  \
		struct vfe_file file;                                      \
                                                                           \
		if (vfe_emulated(fd, &file))                               \
			return vfe_pwrite(&file, data, size, offset);      \
		if (VFE_RARE(!vfe.next.name))                              \
			return vfe_result(vfe_sys4(SYS_pwrite64, fd, data, \
						   size, offset));         \
		return vfe.next.name(fd, data, size, offset);              \
	}

PWRITE(pwrite)
PWRITE(pwrite64)

/* A program whose buffer is too small is ended by libc's own function. */

VFE_EXPORT ssize_t __read_chk(int fd, void *data, size_t size, size_t room)
{
	struct vfe_file file;

	if (size <= room && vfe_emulated(fd, &file))
		return vfe_read(&file, data, size);
	if (VFE_RARE(!vfe.next.__read_chk))
		return vfe_result(vfe_sys3(SYS_read, fd, data, size));
	return vfe.next.__read_chk(fd, data, size, room);
}

#define PREAD_CHK(name)                                                        \
	VFE_EXPORT ssize_t name(int fd, void *data, size_t size, off_t offset, \
				size_t room)                                   \
	{                                                                      \
		struct vfe_file file;                                          \
                                                                               \
		if (size <= room && vfe_emulated(fd, &file))                   \
			return vfe_pread(&file, data, size, offset);           \
		if (VFE_RARE(!vfe.next.name))                                  \
			return vfe_result(vfe_sys4(SYS_pread64, fd, data,      \
						   size, offset));             \
		return vfe.next.name(fd, data, size, offset, room);            \
	}

PREAD_CHK(__pread_chk)
PREAD_CHK(__pread64_chk)

VFE_ALIAS(__read, read);
VFE_ALIAS(__write, write);
VFE_ALIAS(__pread64, pread64);
VFE_ALIAS(__pwrite64, pwrite64);
