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

VFP_EXPORT int ioctl(int fd, unsigned long cmd, ...)
{
	struct vfp_file file;
	va_list args;
	void *arg;
	int result;

	va_start(args, cmd);
	arg = va_arg(args, void *);
	va_end(args);
	if (vfp_emulated(fd, &file))
		return vfp_ioctl(&file, cmd, arg);
	if (VFP_RARE(vfp_kvm_ioctl(fd, cmd, arg, &result)))
		return result;
	if (VFP_RARE(!vfp.next.ioctl))
		return (int)vfp_result(vfp_sys3(SYS_ioctl, fd, cmd, arg));
	return vfp.next.ioctl(fd, cmd, arg);
}

VFP_EXPORT ssize_t read(int fd, void *data, size_t size)
{
	struct vfp_file file;

	if (vfp_emulated(fd, &file))
		return vfp_read(&file, data, size);
	if (VFP_RARE(!vfp.next.read))
		return vfp_result(vfp_sys3(SYS_read, fd, data, size));
	return vfp.next.read(fd, data, size);
}

VFP_EXPORT ssize_t write(int fd, const void *data, size_t size)
{
	struct vfp_file file;

	if (vfp_emulated(fd, &file))
		return vfp_write(&file, data, size);
	if (VFP_RARE(!vfp.next.write))
		return vfp_result(vfp_sys3(SYS_write, fd, data, size));
	return vfp.next.write(fd, data, size);
}

#define PREAD(name)                                                            \
	VFP_EXPORT ssize_t name(int fd, void *data, size_t size, off_t offset) \
	{                                                                      \
		struct vfp_file file;                                          \
                                                                               \
		if (vfp_emulated(fd, &file))                                   \
			return vfp_pread(&file, data, size, offset);           \
		if (VFP_RARE(!vfp.next.name))                                  \
			return vfp_result(vfp_sys4(SYS_pread64, fd, data,      \
						   size, offset));             \
		return vfp.next.name(fd, data, size, offset);                  \
	}

PREAD(pread)
PREAD(pread64)

#define PWRITE(name)                                                       \
	VFP_EXPORT ssize_t name(int fd, const void *data, size_t size,     \
				off_t offset)                              \
	{                                                                  \
		struct vfp_file file;                                      \
                                                                           \
		if (vfp_emulated(fd, &file))                               \
			return vfp_pwrite(&file, data, size, offset);      \
		if (VFP_RARE(!vfp.next.name))                              \
			return vfp_result(vfp_sys4(SYS_pwrite64, fd, data, \
						   size, offset));         \
		return vfp.next.name(fd, data, size, offset);              \
	}

PWRITE(pwrite)
PWRITE(pwrite64)

/* A program whose buffer is too small is ended by libc's own function. */

VFP_EXPORT ssize_t __read_chk(int fd, void *data, size_t size, size_t room)
{
	struct vfp_file file;

	if (size <= room && vfp_emulated(fd, &file))
		return vfp_read(&file, data, size);
	if (VFP_RARE(!vfp.next.__read_chk))
		return vfp_result(vfp_sys3(SYS_read, fd, data, size));
	return vfp.next.__read_chk(fd, data, size, room);
}

#define PREAD_CHK(name)                                                        \
	VFP_EXPORT ssize_t name(int fd, void *data, size_t size, off_t offset, \
				size_t room)                                   \
	{                                                                      \
		struct vfp_file file;                                          \
                                                                               \
		if (size <= room && vfp_emulated(fd, &file))                   \
			return vfp_pread(&file, data, size, offset);           \
		if (VFP_RARE(!vfp.next.name))                                  \
			return vfp_result(vfp_sys4(SYS_pread64, fd, data,      \
						   size, offset));             \
		return vfp.next.name(fd, data, size, offset, room);            \
	}

PREAD_CHK(__pread_chk)
PREAD_CHK(__pread64_chk)

VFP_ALIAS(__read, read);
VFP_ALIAS(__write, write);
VFP_ALIAS(__pread64, pread64);
VFP_ALIAS(__pwrite64, pwrite64);
