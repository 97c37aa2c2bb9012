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
 * functions are reached through `vfe.next`.
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
 * ask whether that has been done: hooks do, in vfe_emulated() and
 * vfe_concerns(), before they call anything.
 */
#ifndef VFE_PRELOAD_H
#define VFE_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "next.h"

#ifndef VFE_EXPORT /* hidden where it is linked into one program, for tests */
#define VFE_EXPORT __attribute__((visibility("default")))
#endif
/* A program's pointers may be NULL, whatever libc's headers declare; a compiler
 * that believed them would leave out what looks at it (meson.build). */
#define VFE_TEXT_(...) #__VA_ARGS__
#define VFE_TEXT(...)  VFE_TEXT_(__VA_ARGS__)
_Static_assert(sizeof(VFE_TEXT(__nonnull((1)))) == 1,
	       "compile it with -D'__nonnull(arguments)='");
/* Another name of a function, under which libc exports it too. */
#define VFE_ALIAS(name, function)        \
	extern __typeof__(function) name \
		__attribute__((alias(#function), copy(function))) VFE_EXPORT
#define VFE_HIDDEN   __attribute__((visibility("hidden")))
#define VFE_RARE(x)  __builtin_expect(!!(x), 0)
#define VFE_PATH_MAX 4096
/* Of madvise(), which older headers lack: of Linux 5.18, 6.13. */
#define VFE_DONTNEED_LOCKED 24
#define VFE_GUARD_INSTALL   102

/* --- what the library is told, once --- */

enum vfe_debug {
	VFE_DEBUG_SHIM = 1, /* start, sessions, threads, forks */
	VFE_DEBUG_PATH = 2, /* what a path was taken for */
	VFE_DEBUG_FD = 4,   /* what an fd was taken for */
	VFE_DEBUG_RPC = 8,  /* each call, and its result */
};

/** The library's only global besides the fd table. */
struct vfe {
	struct vfe_next next;	   /* libc's functions; NULL: not found */
	bool active;		   /* VFIOEMU_SOCKET is set */
	atomic_bool shares_no_fds; /* threads may have fd tables of their own */
	unsigned int debug;	   /* enum vfe_debug */
	char socket[108];	   /* VFIOEMU_SOCKET */
	char root[VFE_PATH_MAX];   /* VFIOEMU_ROOT without a '/' at its end */
	size_t root_size;	   /* its length; 0: there is no tree */
	atomic_int state;	   /* of initialisation, see vfe_init() */
};
VFE_HIDDEN extern struct vfe vfe;

/** libc's syscall(), for syscall() (libc_syscall.c). */
VFE_HIDDEN extern __typeof__(syscall) *vfe_real_syscall;

/**
 * Make the library usable: the constructor does, and any hook that is called
 * earlier. False while it is under way further up the stack or in another
 * thread, then a hook hands the call on.
 */
VFE_HIDDEN bool vfe_init_slow(void);

static inline bool vfe_init(void)
{
	return atomic_load_explicit(&vfe.state, memory_order_acquire) == 2 ||
	       vfe_init_slow();
}

/** Call libc's `name`, or make the system call if that was not found (yet). */
#define VFE_NEXT(name, number, ...)                                          \
	(vfe.next.name ? vfe.next.name(__VA_ARGS__)                          \
		       : (__typeof__(vfe.next.name(__VA_ARGS__)))vfe_result( \
				 VFE_SYS(number, __VA_ARGS__)))
/* A system call with one to five arguments. */
#define VFE_SYS(...)                                                  \
	VFE_SYS_(__VA_ARGS__, vfe_sys5, vfe_sys4, vfe_sys3, vfe_sys2, \
		 vfe_sys1, )(__VA_ARGS__)
#define VFE_SYS_(n, a, b, c, d, e, function, ...) function

/** A kernel's result as libc's: -1 and errno, or >= 0. */
VFE_HIDDEN long vfe_result(long result);
/* --- talking (say.c) --- */

/** One line on stderr: "vfioemu-preload: ...". %s %d %u %x (64 bits) only. */
VFE_HIDDEN void vfe_say(const char *format, ...)
	__attribute__((format(printf, 1, 2)));
/** The same if `category` is in VFIOEMU_DEBUG; with the pid. */
#define vfe_debug(category, ...)                      \
	do {                                          \
		if (VFE_RARE(vfe.debug & (category))) \
			vfe_say(__VA_ARGS__);         \
	} while (0)

/** Whether a call of ours was forbidden, as by a seccomp filter; then it is
 * said once, if VFIOEMU_DEBUG asks for anything. */
VFE_HIDDEN bool vfe_forbidden(const char *call, long result);

/* --- which fds are emulated (fd_table.c, fds.c) --- */

enum vfe_kind {
	VFE_CONTAINER,
	VFE_GROUP,
	VFE_DEVICE,
	VFE_DATA,
	VFE_DMA_BUF,
	VFE_OTHER,    /* no file of the program: one of our connections */
	VFE_ATTRIBUTE /* a live file of the tree: attribute.h */
};

/** An emulated fd, as it was when it was looked at. */
struct vfe_file {
	int fd;
	enum vfe_kind kind;
	uint64_t serial; /* what the daemon calls it; 0: nobody knows */
};

#define VFE_FDS	     (1u << 18)
#define VFE_NOT	     1u /* no emulated fd: nothing else is looked at */
#define VFE_INTERNAL 2u /* a connection of ours, if it is there: hidden */
#define VFE_SEEN     4u /* emulated when it was looked at: if it cannot be */
#define VFE_STEP     8u /* counts what an emulated fd may have come by */

/** One word for each fd; 0 is "not known". See fds.c. */
VFE_HIDDEN extern _Atomic uint32_t vfe_fds[VFE_FDS];

/** What every hook asks first: two instructions for an unrelated fd. */
static inline bool vfe_unrelated(int fd)
{
	if (VFE_RARE((unsigned int)fd >= VFE_FDS))
		return fd < 0;
	return atomic_load_explicit(&vfe_fds[fd], memory_order_relaxed) &
	       VFE_NOT;
}

/** Whether an fd that is not vfe_unrelated() is emulated: asks the kernel. The
 * library is usable. */
VFE_HIDDEN bool vfe_find(int fd, struct vfe_file *file);

/** Whether an fd is emulated. */
static inline bool vfe_emulated(int fd, struct vfe_file *file)
{
	return !vfe_unrelated(fd) && vfe_init() && vfe.active &&
	       vfe_find(fd, file);
}

/** stat() of a node: `kind` and, for a group, its number. */
VFE_HIDDEN void vfe_node_stat(enum vfe_kind kind, unsigned int number,
			      struct stat *status);

/* --- paths (path*.c) --- */

enum vfe_path {
	VFE_PATH_OTHER, /* none of ours: the call goes on as it is */
	VFE_PATH_NODE,	/* a device node: `out` is its absolute name */
	VFE_PATH_TREE, /* a file of the daemon's tree: `out` is its real name */
};

/**
 * What open() of `path` (relative to `dirfd`, or AT_FDCWD) is to open. `out`
 * has VFE_PATH_MAX bytes. Must be cheap for paths that are none of ours, must
 * not allocate, and may be called in a signal handler.
 */
VFE_HIDDEN enum vfe_path vfe_path_find(int dirfd, const char *path, char *out);

/* --- calls on emulated files (files.c): results as libc's, with errno --- */

VFE_HIDDEN int vfe_open(const char *node, int flags);
VFE_HIDDEN int vfe_ioctl(const struct vfe_file *file, unsigned long cmd,
			 void *arg);
VFE_HIDDEN ssize_t vfe_read(const struct vfe_file *file, void *data,
			    size_t size);
VFE_HIDDEN ssize_t vfe_write(const struct vfe_file *file, const void *data,
			     size_t size);
VFE_HIDDEN ssize_t vfe_pread(const struct vfe_file *file, void *data,
			     size_t size, off_t offset);
VFE_HIDDEN ssize_t vfe_pwrite(const struct vfe_file *file, const void *data,
			      size_t size, off_t offset);
/** Which node a group's fd is of; 0 if nobody can tell. */
VFE_HIDDEN unsigned int vfe_number(const struct vfe_file *file);
/** fstat(); `status` may be any address. */
VFE_HIDDEN int vfe_fstat(const struct vfe_file *file, void *status);
/** What it was opened for: O_ACCMODE of its flags. */
VFE_HIDDEN int vfe_access(const struct vfe_file *file);
VFE_HIDDEN void *vfe_mmap(const struct vfe_file *file, void *address,
			  size_t size, int prot, int flags, off_t offset);

/* --- our own memory, which may not be there (memory.c) --- */

/** Copy from or to any address of ours: 0, or -EFAULT. Never a signal. */
VFE_HIDDEN int vfe_copy_in(void *to, const void *from, size_t size);
VFE_HIDDEN int vfe_copy_out(void *to, const void *from, size_t size);
/** The same for hardware: whatever the program may do there itself. */
VFE_HIDDEN int vfe_pinned_in(void *to, const void *from, size_t size);
VFE_HIDDEN int vfe_pinned_out(void *to, const void *from, size_t size);
/** Make pages present, the first `npages` from the one that holds `address`:
 * how many of them now are. */
VFE_HIDDEN size_t vfe_populate(const void *address, size_t npages, bool write);
/** Whether all of [address, address + size) can be written to. */
VFE_HIDDEN bool vfe_writable(void *address, size_t size);

#endif
