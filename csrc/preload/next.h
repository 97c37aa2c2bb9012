/* SPDX-License-Identifier: MIT */
/**
 * @file next.h
 * libc's functions behind ours, found with dlsym(RTLD_NEXT) when the library
 * is initialised. One list: add a name here and it is in `vfp.next`.
 */
#ifndef VFP_PRELOAD_NEXT_H
#define VFP_PRELOAD_NEXT_H

#include <aio.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

/* What fortified programs call; the headers do not declare them (yet). */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
ssize_t __read_chk(int fd, void *data, size_t size, size_t room);
ssize_t __pread_chk(int fd, void *data, size_t size, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *data, size_t size, off64_t offset,
		      size_t room);
ssize_t __readlink_chk(const char *path, char *out, size_t size, size_t room);
ssize_t __readlinkat_chk(int dirfd, const char *path, char *out, size_t size,
			 size_t room);
char *__realpath_chk(const char *restrict path, char *restrict resolved,
		     size_t room);
char *__getcwd_chk(char *out, size_t size, size_t room);
ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *restrict data, size_t size, size_t room,
		       int flags, __SOCKADDR_ARG name,
		       socklen_t *restrict length);
int pidfd_getfd(int pidfd, int fd, unsigned int flags);
/* What programs call that were built before glibc 2.33. */
int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);
int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat64 *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat64 *status);
int __fxstatat(int version, int dirfd, const char *path, struct stat *status,
	       int flags);
int __fxstatat64(int version, int dirfd, const char *path,
		 struct stat64 *status, int flags);

#define VFP_NEXT_CALLS(X)    \
	X(open)              \
	X(open64)            \
	X(openat)            \
	X(openat64)          \
	X(__open_2)          \
	X(__open64_2)        \
	X(__openat_2)        \
	X(__openat64_2)      \
	X(creat)             \
	X(creat64)           \
	X(ioctl)             \
	X(mmap)              \
	X(mmap64)            \
	X(munmap)            \
	X(mremap)            \
	X(mprotect)          \
	X(madvise)           \
	X(pkey_mprotect)     \
	X(shmat)             \
	X(shmdt)             \
	X(fallocate)         \
	X(fallocate64)       \
	X(read)              \
	X(write)             \
	X(pread)             \
	X(pread64)           \
	X(pwrite)            \
	X(pwrite64)          \
	X(readv)             \
	X(writev)            \
	X(preadv)            \
	X(preadv64)          \
	X(pwritev)           \
	X(pwritev64)         \
	X(preadv2)           \
	X(preadv64v2)        \
	X(pwritev2)          \
	X(pwritev64v2)       \
	X(__read_chk)        \
	X(__pread_chk)       \
	X(__pread64_chk)     \
	X(inotify_add_watch) \
	X(name_to_handle_at) \
	X(pathconf)          \
	X(close)             \
	X(dup)               \
	X(dup2)              \
	X(dup3)              \
	X(fcntl)             \
	X(fcntl64)           \
	X(close_range)       \
	X(closefrom)         \
	X(unshare)           \
	X(recvmsg)           \
	X(recvmmsg)          \
	X(shutdown)          \
	X(listen)            \
	X(bind)              \
	X(connect)           \
	X(accept)            \
	X(accept4)           \
	X(getsockname)       \
	X(getpeername)       \
	X(getsockopt)        \
	X(setsockopt)        \
	X(send)              \
	X(sendto)            \
	X(sendmsg)           \
	X(sendmmsg)          \
	X(recv)              \
	X(recvfrom)          \
	X(__recv_chk)        \
	X(__recvfrom_chk)    \
	X(fflush)            \
	X(fclose)            \
	X(execve)            \
	X(execvpe)           \
	X(fexecve)           \
	X(posix_spawn)       \
	X(posix_spawnp)      \
	X(fstat)             \
	X(fstat64)           \
	X(__fxstat)          \
	X(__fxstat64)        \
	X(syscall)           \
	X(splice)            \
	X(sendfile)          \
	X(sendfile64)        \
	X(copy_file_range)   \
	X(epoll_ctl)         \
	X(fdopen)            \
	X(fileno)            \
	X(fileno_unlocked)   \
	X(aio_read)          \
	X(aio_read64)        \
	X(aio_write)         \
	X(aio_write64)       \
	X(aio_fsync)         \
	X(aio_fsync64)       \
	X(lio_listio)        \
	X(lio_listio64)

/* The path functions: path*.c. */
#define VFP_NEXT_PATHS(X)       \
	X(stat)                 \
	X(stat64)               \
	X(lstat)                \
	X(lstat64)              \
	X(fstatat)              \
	X(fstatat64)            \
	X(__xstat)              \
	X(__xstat64)            \
	X(__lxstat)             \
	X(__lxstat64)           \
	X(__fxstatat)           \
	X(__fxstatat64)         \
	X(statx)                \
	X(access)               \
	X(faccessat)            \
	X(eaccess)              \
	X(euidaccess)           \
	X(readlink)             \
	X(readlinkat)           \
	X(__readlink_chk)       \
	X(__readlinkat_chk)     \
	X(realpath)             \
	X(__realpath_chk)       \
	X(chdir)                \
	X(fchdir)               \
	X(getcwd)               \
	X(__getcwd_chk)         \
	X(get_current_dir_name) \
	X(opendir)              \
	X(fdopendir)            \
	X(closedir)             \
	X(readdir)              \
	X(readdir64)            \
	X(rewinddir)            \
	X(telldir)              \
	X(seekdir)              \
	X(dirfd)                \
	X(scandir)              \
	X(scandir64)            \
	X(scandirat)            \
	X(scandirat64)          \
	X(fopen)                \
	X(fopen64)              \
	X(freopen)              \
	X(freopen64)            \
	X(glob)                 \
	X(nftw)                 \
	X(nftw64)               \
	X(ftw)                  \
	X(ftw64)                \
	X(getxattr)             \
	X(lgetxattr)            \
	X(listxattr)            \
	X(llistxattr)           \
	X(statfs)               \
	X(statfs64)             \
	X(fstatfs)              \
	X(fstatfs64)            \
	X(statvfs)              \
	X(statvfs64)            \
	X(fstatvfs)             \
	X(fstatvfs64)           \
	X(chmod)                \
	X(lchmod)               \
	X(fchmodat)             \
	X(fchmod)               \
	X(chown)                \
	X(lchown)               \
	X(fchown)               \
	X(fchownat)             \
	X(utime)                \
	X(utimes)               \
	X(lutimes)              \
	X(utimensat)            \
	X(futimesat)            \
	X(unlink)               \
	X(rmdir)                \
	X(unlinkat)             \
	X(remove)               \
	X(rename)               \
	X(renameat)             \
	X(renameat2)            \
	X(link)                 \
	X(linkat)               \
	X(mkdir)                \
	X(mkdirat)              \
	X(mknod)                \
	X(mknodat)              \
	X(mkfifo)               \
	X(mkfifoat)             \
	X(symlink)              \
	X(symlinkat)            \
	X(truncate)             \
	X(truncate64)           \
	X(ftruncate)            \
	X(ftruncate64)          \
	X(setxattr)             \
	X(lsetxattr)            \
	X(removexattr)          \
	X(lremovexattr)         \
	X(fsetxattr)            \
	X(fremovexattr)

struct vfp_next {
#define VFP_MEMBER(name) __typeof__(name) *name;
	VFP_NEXT_CALLS(VFP_MEMBER) VFP_NEXT_PATHS(VFP_MEMBER)
#undef VFP_MEMBER
};

#endif
