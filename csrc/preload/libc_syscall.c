/* SPDX-License-Identifier: MIT */
/**
 * @file libc_syscall.c
 * Overridden libc functions: syscall(). It hands on to the functions that are
 * overridden by name; nothing else in the library may call those.
 *
 * All other numbers jump to libc's own code with nothing changed, as clone()
 * with a stack of its own would not come back through a function of ours.
 */
#include <errno.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/shm.h>

#include "by_number.h"
#include "fd_table.h"
#include "fds.h"
#include "path.h"
#include "sys.h"

#define VFP_NUMBERS 512

/** The system calls that are looked at. */
VFP_HIDDEN extern const unsigned char vfp_wanted[VFP_NUMBERS];
const unsigned char vfp_wanted[VFP_NUMBERS] = {
#ifdef SYS_open
	[SYS_open] = 1,
	[SYS_creat] = 1,
	[SYS_dup2] = 1,
	[SYS_stat] = 1,
	[SYS_lstat] = 1,
	[SYS_access] = 1,
	[SYS_readlink] = 1,
	[SYS_chmod] = 1,
	[SYS_chown] = 1,
	[SYS_unlink] = 1,
	[SYS_rename] = 1,
	[SYS_mkdir] = 1,
#endif
	[SYS_newfstatat] = 1,
	[SYS_statx] = 1,
	[SYS_faccessat] = 1,
	[SYS_faccessat2] = 1,
	[SYS_readlinkat] = 1,
	[SYS_chdir] = 1,
	[SYS_fchdir] = 1,
	[SYS_openat] = 1,
	[SYS_openat2] = 1,
	[SYS_ioctl] = 1,
	[SYS_read] = 1,
	[SYS_write] = 1,
	[SYS_pread64] = 1,
	[SYS_pwrite64] = 1,
	[SYS_readv] = 1,
	[SYS_writev] = 1,
	[SYS_preadv] = 1,
	[SYS_pwritev] = 1,
	[SYS_preadv2] = 1,
	[SYS_pwritev2] = 1,
	[SYS_mmap] = 1,
	[SYS_munmap] = 1,
	[SYS_mremap] = 1,
	[SYS_mprotect] = 1,
	[SYS_close] = 1,
	[SYS_dup] = 1,
	[SYS_dup3] = 1,
	[SYS_fcntl] = 1,
	[SYS_unshare] = 1,
	[SYS_close_range] = 1,
	[SYS_recvmsg] = 1,
	[SYS_recvmmsg] = 1,
	[SYS_shutdown] = 1,
	[SYS_listen] = 1,
	[SYS_bind] = 1,
	[SYS_connect] = 1,
	[SYS_accept] = 1,
	[SYS_accept4] = 1,
	[SYS_getsockname] = 1,
	[SYS_getpeername] = 1,
	[SYS_getsockopt] = 1,
	[SYS_setsockopt] = 1,
	[SYS_sendto] = 1,
	[SYS_sendmsg] = 1,
	[SYS_sendmmsg] = 1,
	[SYS_recvfrom] = 1,
	[SYS_fstat] = 1,
	[SYS_pidfd_getfd] = 1,
	[SYS_splice] = 1,
	[SYS_sendfile] = 1,
	[SYS_copy_file_range] = 1,
	[SYS_epoll_ctl] = 1,
	[SYS_inotify_add_watch] = 1,
	[SYS_name_to_handle_at] = 1,
	[SYS_statfs] = 1,
	[SYS_fstatfs] = 1,
	[SYS_fchmodat] = 1,
	[SYS_fchmod] = 1,
	[SYS_fchownat] = 1,
	[SYS_fchown] = 1,
	[SYS_unlinkat] = 1,
	[SYS_renameat2] = 1,
	[SYS_mkdirat] = 1,
	[SYS_truncate] = 1,
	[SYS_ftruncate] = 1,
	[SYS_execve] = 1,
	[SYS_execveat] = 1,
	[SYS_madvise] = 1,
	[SYS_pkey_mprotect] = 1,
	[SYS_shmat] = 1,
	[SYS_shmdt] = 1,
	[SYS_fallocate] = 1,
};

#if defined(__x86_64__)
__asm__(".text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	cmpq $511, %rdi\n"
	"	ja 1f\n"
	"	leaq vfp_wanted(%rip), %rax\n"
	"	cmpb $0, (%rax, %rdi)\n"
	"	jne vfp_by_number\n"
	"1:	movq vfp_real_syscall(%rip), %rax\n"
	"	testq %rax, %rax\n"
	"	je vfp_by_number\n"
	"	jmp *%rax\n"
	"	.cfi_endproc\n"
	".size syscall, . - syscall\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl syscall\n"
	".type syscall, %function\n"
	"syscall:\n"
	"	.cfi_startproc\n"
	"	bti c\n"
	"	cmp x0, #511\n"
	"	b.hi 1f\n"
	"	adrp x16, vfp_wanted\n"
	"	add x16, x16, :lo12:vfp_wanted\n"
	"	ldrb w16, [x16, x0]\n"
	"	cbnz w16, 2f\n"
	"1:	adrp x16, vfp_real_syscall\n"
	"	ldr x16, [x16, :lo12:vfp_real_syscall]\n"
	"	cbz x16, 2f\n"
	"	br x16\n"
	"2:	b vfp_by_number\n"
	"	.cfi_endproc\n"
	".size syscall, . - syscall\n");
#endif

/* openat2(): what it asks for beyond open(), the kernel does in the tree. */
static long open_how(int dirfd, const char *path, const void *how, size_t size)
{
	char out[VFP_PATH_MAX];
	struct open_how ours;
	enum vfp_path what = VFP_PATH_OTHER;

	if (vfp_init() && vfp.active && size >= sizeof(ours) &&
	    !vfp_copy_in(&ours, how, sizeof(ours)))
		what = vfp_path_find(dirfd, path, out);
	if (what == VFP_PATH_NODE && !(ours.flags & O_PATH))
		return vfp_open(out, (int)ours.flags);
	if (what == VFP_PATH_TREE ||
	    (what == VFP_PATH_NODE && vfp_path_stand_in(out))) {
		int flags = vfp_path_flags(out, (int)ours.flags);

		if (flags < 0)
			return vfp_result(flags);
		ours.flags = (unsigned int)flags;
		dirfd = AT_FDCWD;
		path = out;
		how = &ours;
		size = sizeof(ours);
	}
	int fd = (int)vfp_result(vfp_sys4(SYS_openat2, dirfd, path, how, size));

	if (fd >= 0)
		vfp_fd_appears(fd);
	return fd;
}

/* Files and what is in them. */
static bool file_call(long number, const long a[6], long *result)
{
	int fd = (int)a[0];
	void *data = (void *)a[1];
	size_t size = (size_t)a[2];

	switch (number) {
	case SYS_ioctl:
		*result = ioctl(fd, (unsigned long)a[1], (void *)a[2]);
		return true;
	case SYS_read:
		*result = read(fd, data, size);
		return true;
	case SYS_write:
		*result = write(fd, data, size);
		return true;
	case SYS_pread64:
		*result = pread64(fd, data, size, a[3]);
		return true;
	case SYS_pwrite64:
		*result = pwrite64(fd, data, size, a[3]);
		return true;
	case SYS_readv:
		*result = readv(fd, data, (int)a[2]);
		return true;
	case SYS_writev:
		*result = writev(fd, data, (int)a[2]);
		return true;
	case SYS_preadv:
		*result = preadv64(fd, data, (int)a[2], a[3]);
		return true;
	case SYS_pwritev:
		*result = pwritev64(fd, data, (int)a[2], a[3]);
		return true;
	case SYS_preadv2:
		*result = preadv64v2(fd, data, (int)a[2], a[3], (int)a[5]);
		return true;
	case SYS_pwritev2:
		*result = pwritev64v2(fd, data, (int)a[2], a[3], (int)a[5]);
		return true;
	case SYS_fstat:
		*result = fstat(fd, data);
		return true;
	case SYS_recvmsg:
		*result = recvmsg(fd, data, (int)a[2]);
		return true;
	case SYS_recvmmsg:
		*result = recvmmsg(fd, data, (unsigned int)a[2], (int)a[3],
				   (struct timespec *)a[4]);
		return true;
	default:
		return false;
	}
}

/* Fds, and how they come about. */
static bool fd_call(long number, const long a[6], long *result)
{
	switch (number) {
#ifdef SYS_open
	case SYS_open:
		*result = open64((const char *)a[0], (int)a[1], (mode_t)a[2]);
		return true;
	case SYS_creat:
		*result = creat64((const char *)a[0], (mode_t)a[1]);
		return true;
	case SYS_dup2:
		*result = dup2((int)a[0], (int)a[1]);
		return true;
#endif
	case SYS_openat:
		*result = openat64((int)a[0], (const char *)a[1], (int)a[2],
				   (mode_t)a[3]);
		return true;
	case SYS_openat2:
		*result = open_how((int)a[0], (const char *)a[1],
				   (const void *)a[2], (size_t)a[3]);
		return true;
	case SYS_close:
		*result = close((int)a[0]);
		return true;
	case SYS_dup:
		*result = dup((int)a[0]);
		return true;
	case SYS_dup3:
		*result = dup3((int)a[0], (int)a[1], (int)a[2]);
		return true;
	case SYS_fcntl:
		*result = fcntl((int)a[0], (int)a[1], (void *)a[2]);
		return true;
	case SYS_close_range:
		*result = close_range((unsigned int)a[0], (unsigned int)a[1],
				      (int)a[2]);
		return true;
	case SYS_unshare:
		*result = unshare((int)a[0]);
		return true;
	case SYS_splice:
		*result = splice((int)a[0], (off64_t *)a[1], (int)a[2],
				 (off64_t *)a[3], (size_t)a[4],
				 (unsigned int)a[5]);
		return true;
	case SYS_sendfile:
		*result = sendfile64((int)a[0], (int)a[1], (off64_t *)a[2],
				     (size_t)a[3]);
		return true;
	case SYS_epoll_ctl:
		*result = epoll_ctl((int)a[0], (int)a[1], (int)a[2],
				    (struct epoll_event *)a[3]);
		return true;
	case SYS_pidfd_getfd:
		*result = pidfd_getfd((int)a[0], (int)a[1], (unsigned int)a[2]);
		return true;
	default:
		return false;
	}
}

/* Those of sockets, which emulated files are none of. */
static bool socket_call(long number, const long a[6], long *result)
{
	int refused;

	switch (number) {
	case SYS_shutdown:
	case SYS_listen:
	case SYS_bind:
	case SYS_connect:
	case SYS_accept:
	case SYS_accept4:
	case SYS_getsockname:
	case SYS_getpeername:
	case SYS_getsockopt:
	case SYS_setsockopt:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_recvfrom:
		refused = vfp_no_socket((int)a[0]);
		if (refused)
			*result = vfp_result(refused);
		return refused;
	default:
		return false;
	}
}

static bool memory_call(long number, const long a[6], long *result)
{
	void *address = (void *)a[0];

	switch (number) {
	case SYS_mmap:
		*result = (long)mmap64(address, (size_t)a[1], (int)a[2],
				       (int)a[3], (int)a[4], a[5]);
		return true;
	case SYS_munmap:
		*result = munmap(address, (size_t)a[1]);
		return true;
	case SYS_mremap:
		*result = (long)mremap(address, (size_t)a[1], (size_t)a[2],
				       (int)a[3], (void *)a[4]);
		return true;
	case SYS_madvise:
		*result = madvise(address, (size_t)a[1], (int)a[2]);
		return true;
	case SYS_fallocate:
		*result = fallocate64((int)a[0], (int)a[1], a[2], a[3]);
		return true;
	case SYS_ftruncate:
		*result = ftruncate64((int)a[0], a[1]);
		return true;
	case SYS_truncate:
		*result = truncate64((const char *)a[0], a[1]);
		return true;
	case SYS_mprotect:
		*result = mprotect(address, (size_t)a[1], (int)a[2]);
		return true;
	case SYS_pkey_mprotect:
		*result = pkey_mprotect(address, (size_t)a[1], (int)a[2],
					(int)a[3]);
		return true;
	case SYS_shmat:
		*result = (long)shmat((int)a[0], (const void *)a[1], (int)a[2]);
		return true;
	case SYS_shmdt:
		*result = shmdt(address);
		return true;
	default:
		return false;
	}
}

/** Where syscall() comes to with a wanted number, or before libc's is found. */
VFP_HIDDEN long vfp_by_number(long number, ...) __attribute__((used, noinline));
long vfp_by_number(long number, ...)
{
	long a[6], result;
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (file_call(number, a, &result) || fd_call(number, a, &result) ||
	    vfp_path_call(number, a, &result) ||
	    vfp_change_call(number, a, &result) ||
	    memory_call(number, a, &result) || socket_call(number, a, &result))
		return result;
	return vfp_result(vfp_sys6(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}
