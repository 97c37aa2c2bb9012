/* SPDX-License-Identifier: MIT */
/**
 * @file preload.h
 * What the files of libvfioemu-preload.so share.
 *
 * The library stands between a program and libc. It decides nothing: it knows
 * which fds are emulated, sends their calls to the daemon, and does for it
 * what only the calling process can do (protocol/wire.md). Everything else is
 * handed on to the next function of the same name.
 *
 * Two rules keep it from calling itself. Exported functions live in libc_*.c
 * and path*.c and nowhere else, and nothing here calls a function that the
 * library exports: system calls of its own are made with sys.h, libc's
 * functions are reached through `vfp.next`.
 *
 * A third keeps it from breaking programs: no exported function allocates,
 * takes a lock, or changes errno on success, unless the fd or the path is
 * emulated.
 *
 * Files use what is below them, never what is above:
 *
 *   libc_*, path_*  exported functions      (the other path files are below)
 *   path_behind     the node or file that an fd stands for
 *   fds, files      which fds are emulated; what is done with them
 *   init            the environment is read, everything below is made ready
 *   attribute, dma, share   live files; memory that the daemon maps or keeps
 *   call            a call to the daemon
 *   session         the connections of this process; service: its thread
 *   hello, answer   the greeting; what the daemon asks while a call lasts
 *   path, path_concern, path_fd, path_look, path_flags   paths of the tree
 *   packet, holds, path_tree   messages; mappings; names of the tree
 *   process, token, trust, offer   which process, socket, user this is
 *   own, place, say, memory, stat  fds of ours; messages; memory by address
 *   state, fd_table, text, maps, scratch   what knows of nothing else
 *
 * init is far up because it makes the rest ready. So what is below it must not
 * ask whether that has been done: hooks do, in vfp_emulated() and
 * vfp_concerns(), before they call anything.
 */
#ifndef VFP_PRELOAD_H
#define VFP_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "next.h"

#ifndef VFP_EXPORT /* hidden where it is linked into one program, for tests */
#define VFP_EXPORT __attribute__((visibility("default")))
#endif
/* A program's pointers may be NULL, whatever libc's headers declare; a compiler
 * that believed them would leave out what looks at it (meson.build). */
#define VFP_TEXT_(...) #__VA_ARGS__
#define VFP_TEXT(...)  VFP_TEXT_(__VA_ARGS__)
_Static_assert(sizeof(VFP_TEXT(__nonnull((1)))) == 1,
	       "compile it with -D'__nonnull(arguments)='");
/* Another name of a function, under which libc exports it too. */
#define VFP_ALIAS(name, function)        \
	extern __typeof__(function) name \
		__attribute__((alias(#function), copy(function))) VFP_EXPORT
#define VFP_HIDDEN   __attribute__((visibility("hidden")))
#define VFP_RARE(x)  __builtin_expect(!!(x), 0)
#define VFP_PATH_MAX 4096
/* Of madvise(), which older headers lack: of Linux 5.18, 6.13. */
#define VFP_DONTNEED_LOCKED 24
#define VFP_GUARD_INSTALL   102

/* --- what the library is told, once --- */

enum vfp_debug {
	VFP_DEBUG_SHIM = 1, /* start, sessions, threads, forks */
	VFP_DEBUG_PATH = 2, /* what a path was taken for */
	VFP_DEBUG_FD = 4,   /* what an fd was taken for */
	VFP_DEBUG_RPC = 8,  /* each call, and its result */
};

/** The library's only global besides the fd table. */
struct vfp {
	struct vfp_next next;	   /* libc's functions; NULL: not found */
	bool active;		   /* VFIOEMU_SOCKET is set */
	atomic_bool shares_no_fds; /* threads may have fd tables of their own */
	unsigned int debug;	   /* enum vfp_debug */
	char socket[108];	   /* VFIOEMU_SOCKET */
	char root[VFP_PATH_MAX];   /* VFIOEMU_ROOT without a '/' at its end */
	size_t root_size;	   /* its length; 0: there is no tree */
	atomic_int state;	   /* of initialisation, see vfp_init() */
};
VFP_HIDDEN extern struct vfp vfp;

/** libc's syscall(), for syscall() (libc_syscall.c). */
VFP_HIDDEN extern __typeof__(syscall) *vfp_real_syscall;

/**
 * Make the library usable: the constructor does, and any hook that is called
 * earlier. False while it is under way further up the stack or in another
 * thread, then a hook hands the call on.
 */
VFP_HIDDEN bool vfp_init_slow(void);

static inline bool vfp_init(void)
{
	return atomic_load_explicit(&vfp.state, memory_order_acquire) == 2 ||
	       vfp_init_slow();
}

/** Call libc's `name`, or make the system call if that was not found (yet). */
#define VFP_NEXT(name, number, ...)                                          \
	(vfp.next.name ? vfp.next.name(__VA_ARGS__)                          \
		       : (__typeof__(vfp.next.name(__VA_ARGS__)))vfp_result( \
				 VFP_SYS(number, __VA_ARGS__)))
/* A system call with one to five arguments. */
#define VFP_SYS(...)                                                  \
	VFP_SYS_(__VA_ARGS__, vfp_sys5, vfp_sys4, vfp_sys3, vfp_sys2, \
		 vfp_sys1, )(__VA_ARGS__)
#define VFP_SYS_(n, a, b, c, d, e, function, ...) function

/** A kernel's result as libc's: -1 and errno, or >= 0. */
VFP_HIDDEN long vfp_result(long result);
/* --- talking (say.c) --- */

/** One line on stderr: "vfioemu-preload: ...". %s %d %u %x (64 bits) only. */
VFP_HIDDEN void vfp_say(const char *format, ...)
	__attribute__((format(printf, 1, 2)));
/** The same if `category` is in VFIOEMU_DEBUG; with the pid. */
#define vfp_debug(category, ...)                      \
	do {                                          \
		if (VFP_RARE(vfp.debug & (category))) \
			vfp_say(__VA_ARGS__);         \
	} while (0)

/** Whether a call of ours was forbidden, as by a seccomp filter; then it is
 * said once, if VFIOEMU_DEBUG asks for anything. */
VFP_HIDDEN bool vfp_forbidden(const char *call, long result);

/* --- which fds are emulated (fd_table.c, fds.c) --- */

enum vfp_kind {
	VFP_CONTAINER,
	VFP_GROUP,
	VFP_DEVICE,
	VFP_DATA,
	VFP_DMA_BUF,
	VFP_OTHER,    /* no file of the program: one of our connections */
	VFP_ATTRIBUTE /* a live file of the tree: attribute.h */
};

/** An emulated fd, as it was when it was looked at. */
struct vfp_file {
	int fd;
	enum vfp_kind kind;
	uint64_t serial; /* what the daemon calls it; 0: nobody knows */
};

#define VFP_FDS	     (1u << 18)
#define VFP_NOT	     1u /* no emulated fd: nothing else is looked at */
#define VFP_INTERNAL 2u /* a connection of ours, if it is there: hidden */
#define VFP_SEEN     4u /* emulated when it was looked at: if it cannot be */
#define VFP_STEP     8u /* counts what an emulated fd may have come by */

/** One word for each fd; 0 is "not known". See fds.c. */
VFP_HIDDEN extern _Atomic uint32_t vfp_fds[VFP_FDS];

/** What every hook asks first: two instructions for an unrelated fd. */
static inline bool vfp_unrelated(int fd)
{
	if (VFP_RARE((unsigned int)fd >= VFP_FDS))
		return fd < 0;
	return atomic_load_explicit(&vfp_fds[fd], memory_order_relaxed) &
	       VFP_NOT;
}

/** Whether an fd that is not vfp_unrelated() is emulated: asks the kernel. The
 * library is usable. */
VFP_HIDDEN bool vfp_find(int fd, struct vfp_file *file);

/** Whether an fd is emulated. */
static inline bool vfp_emulated(int fd, struct vfp_file *file)
{
	return !vfp_unrelated(fd) && vfp_init() && vfp.active &&
	       vfp_find(fd, file);
}

/** stat() of a node: `kind` and, for a group, its number. */
VFP_HIDDEN void vfp_node_stat(enum vfp_kind kind, unsigned int number,
			      struct stat *status);

/* --- paths (path*.c) --- */

enum vfp_path {
	VFP_PATH_OTHER, /* none of ours: the call goes on as it is */
	VFP_PATH_NODE,	/* a device node: `out` is its absolute name */
	VFP_PATH_TREE, /* a file of the daemon's tree: `out` is its real name */
};

/**
 * What open() of `path` (relative to `dirfd`, or AT_FDCWD) is to open. `out`
 * has VFP_PATH_MAX bytes. Must be cheap for paths that are none of ours, must
 * not allocate, and may be called in a signal handler.
 */
VFP_HIDDEN enum vfp_path vfp_path_find(int dirfd, const char *path, char *out);

/* --- calls on emulated files (files.c): results as libc's, with errno --- */

VFP_HIDDEN int vfp_open(const char *node, int flags);
VFP_HIDDEN int vfp_ioctl(const struct vfp_file *file, unsigned long cmd,
			 void *arg);
VFP_HIDDEN ssize_t vfp_read(const struct vfp_file *file, void *data,
			    size_t size);
VFP_HIDDEN ssize_t vfp_write(const struct vfp_file *file, const void *data,
			     size_t size);
VFP_HIDDEN ssize_t vfp_pread(const struct vfp_file *file, void *data,
			     size_t size, off_t offset);
VFP_HIDDEN ssize_t vfp_pwrite(const struct vfp_file *file, const void *data,
			      size_t size, off_t offset);
/** Which node a group's fd is of; 0 if nobody can tell. */
VFP_HIDDEN unsigned int vfp_number(const struct vfp_file *file);
/** fstat(); `status` may be any address. */
VFP_HIDDEN int vfp_fstat(const struct vfp_file *file, void *status);
/** What it was opened for: O_ACCMODE of its flags. */
VFP_HIDDEN int vfp_access(const struct vfp_file *file);
VFP_HIDDEN void *vfp_mmap(const struct vfp_file *file, void *address,
			  size_t size, int prot, int flags, off_t offset);

/* --- our own memory, which may not be there (memory.c) --- */

/** Copy from or to any address of ours: 0, or -EFAULT. Never a signal. */
VFP_HIDDEN int vfp_copy_in(void *to, const void *from, size_t size);
VFP_HIDDEN int vfp_copy_out(void *to, const void *from, size_t size);
/** The same for hardware: whatever the program may do there itself. */
VFP_HIDDEN int vfp_pinned_in(void *to, const void *from, size_t size);
VFP_HIDDEN int vfp_pinned_out(void *to, const void *from, size_t size);
/** Make pages present, the first `npages` from the one that holds `address`:
 * how many of them now are. */
VFP_HIDDEN size_t vfp_populate(const void *address, size_t npages, bool write);
/** Whether all of [address, address + size) can be written to. */
VFP_HIDDEN bool vfp_writable(void *address, size_t size);

#endif
