/* SPDX-License-Identifier: MIT */
/**
 * @file next.h
 * libc's functions behind ours, found with dlsym(RTLD_NEXT) when the library
 * is initialised. One list: add a name here and it is in `vfe.next`.
 */
#ifndef VFE_PRELOAD_NEXT_H
#define VFE_PRELOAD_NEXT_H

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* What fortified programs call; the headers do not declare them. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
ssize_t __read_chk(int fd, void *data, size_t size, size_t room);
ssize_t __pread_chk(int fd, void *data, size_t size, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *data, size_t size, off64_t offset,
		      size_t room);
/* What programs call that were built before glibc 2.33. */
int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);

#define VFE_NEXT_CALLS(X) \
	X(open)           \
	X(open64)         \
	X(openat)         \
	X(openat64)       \
	X(__open_2)       \
	X(__open64_2)     \
	X(__openat_2)     \
	X(__openat64_2)   \
	X(creat)          \
	X(creat64)        \
	X(ioctl)          \
	X(mmap)           \
	X(mmap64)         \
	X(munmap)         \
	X(mremap)         \
	X(mprotect)       \
	X(read)           \
	X(write)          \
	X(pread)          \
	X(pread64)        \
	X(pwrite)         \
	X(pwrite64)       \
	X(readv)          \
	X(writev)         \
	X(preadv)         \
	X(preadv64)       \
	X(pwritev)        \
	X(pwritev64)      \
	X(preadv2)        \
	X(preadv64v2)     \
	X(pwritev2)       \
	X(pwritev64v2)    \
	X(__read_chk)     \
	X(__pread_chk)    \
	X(__pread64_chk)  \
	X(close)          \
	X(dup)            \
	X(dup2)           \
	X(dup3)           \
	X(fcntl)          \
	X(fcntl64)        \
	X(close_range)    \
	X(closefrom)      \
	X(unshare)        \
	X(recvmsg)        \
	X(recvmmsg)       \
	X(fstat)          \
	X(fstat64)        \
	X(__fxstat)       \
	X(__fxstat64)     \
	X(syscall)

/* The path functions: path*.c. */
#define VFE_NEXT_PATHS(X)

struct vfe_next {
#define VFE_MEMBER(name) __typeof__(name) *name;
	VFE_NEXT_CALLS(VFE_MEMBER) VFE_NEXT_PATHS(VFE_MEMBER)
#undef VFE_MEMBER
};

#endif
