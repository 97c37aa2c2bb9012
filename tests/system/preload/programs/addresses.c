/* SPDX-License-Identifier: MIT */
/*
 * Calls what takes pointers with all kinds of them, each in a process of its
 * own, and prints what came of it: FUNCTION NUMBER WHAT: RESULT. Knows nothing
 * of the preload library; what it prints with and without it is compared.
 *
 *   addresses GROUP DEVICE paths         names that cannot be read, or just so
 *   ... names NODE LINK FOLDER FILE      good names, and bad buffers
 *   ... file FILE                        an open file, and bad buffers
 *   ... device                           a device, and bad buffers
 *   ... ioctl                            VFIO's files, and bad arguments
 */
#include "client.h"

#include <aio.h>
#include <dirent.h>
#include <ftw.h>
#include <glob.h>
#include <linux/openat2.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <utime.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* readdir_r() */

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
int __open(const char *path, int flags, ...);
int __open64(const char *path, int flags, ...);
ssize_t __read(int fd, void *data, size_t size);
ssize_t __write(int fd, const void *data, size_t size);
ssize_t __pread64(int fd, void *data, size_t size, off_t offset);
ssize_t __pwrite64(int fd, const void *data, size_t size, off_t offset);
int __fcntl(int fd, int cmd, ...);
ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room, int flags,
		       __SOCKADDR_ARG name, socklen_t *length);
ssize_t __send(int fd, const void *data, size_t size, int flags);
int __connect(int fd, __CONST_SOCKADDR_ARG name, socklen_t size);
ssize_t __read_chk(int fd, void *data, size_t size, size_t room);
ssize_t __pread_chk(int fd, void *data, size_t size, off_t at, size_t room);
ssize_t __pread64_chk(int fd, void *data, size_t size, off_t at, size_t room);
ssize_t __readlink_chk(const char *path, char *out, size_t size, size_t room);
ssize_t __readlinkat_chk(int dirfd, const char *path, char *out, size_t size,
			 size_t room);
char *__realpath_chk(const char *path, char *resolved, size_t room);
char *__getcwd_chk(char *out, size_t size, size_t room);
int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat64 *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat64 *status);
int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);
int __fxstatat(int version, int dirfd, const char *path, struct stat *status,
	       int flags);
int __fxstatat64(int version, int dirfd, const char *path,
		 struct stat64 *status, int flags);

/* Two pages, and none behind them; the same, read-only. */
static char *edge, *constant;
static char zeroed[PAGE];
static unsigned int count;

static void at_the_end(const char *text, size_t size)
{
	memset(edge, 'a', 2 * PAGE);
	memcpy(edge + 2 * PAGE - size, text, size);
}

#define HERE AT_FDCWD
/* The first word of a call is the function's name. */
#define CALL(function, ...) \
	TRY(#function, (intptr_t)function(__VA_ARGS__), #__VA_ARGS__)
#define BY_NUMBER(name, ...)                                            \
	TRY("syscall", (intptr_t)syscall(SYS_##name, ##__VA_ARGS__, 0), \
	    #name ", " #__VA_ARGS__)
#define TRY(function, call, text)                                             \
	do {                                                                  \
		pid_t child;                                                  \
		int status;                                                   \
                                                                              \
		fflush(stdout);                                               \
		child = fork();                                               \
		CHECK(child >= 0);                                            \
		if (!child) {                                                 \
			alarm(20);                                            \
			errno = 0;                                            \
			told(function, text, call);                           \
			_exit(0);                                             \
		}                                                             \
		CHECK(waitpid(child, &status, 0) == child);                   \
		if (WIFSIGNALED(status))                                      \
			printf("%s %u (%s) %s: signal %d\n", function, count, \
			       text, kind, WTERMSIG(status));                 \
		count++;                                                      \
	} while (0)

static const char *kind;

/* Which number or address it is does not matter. */
static void told(const char *function, const char *text, intptr_t result)
{
	int error = errno;

	if (result == -1 || !result)
		printf("%s %u (%s) %s: %d %s\n", function, count, text, kind,
		       (int)result,
		       result && error ? strerrorname_np(error) : "");
	else
		printf("%s %u (%s) %s: good\n", function, count, text, kind);
	fflush(stdout);
}

static int visit(const char *path, const struct stat *status, int type,
		 struct FTW *where)
{
	(void)path;
	(void)status;
	(void)type;
	(void)where;
	return 1;
}

static int visit_file(const char *path, const struct stat *status, int type)
{
	return visit(path, status, type, NULL);
}

static int visit_file64(const char *path, const struct stat64 *status, int type)
{
	return visit(path, (const struct stat *)status, type, NULL);
}

static int visit64(const char *path, const struct stat64 *status, int type,
		   struct FTW *where)
{
	return visit(path, (const struct stat *)status, type, where);
}

/* --- every function that takes a path, with one --- */

static void open_path(const char *P)
{
	CALL(open, P, O_RDONLY);
	CALL(open64, P, O_RDONLY);
	CALL(__open, P, O_RDONLY);
	CALL(__open64, P, O_RDONLY);
	CALL(__open_2, P, O_RDONLY);
	CALL(__open64_2, P, O_RDONLY);
	CALL(openat, HERE, P, O_RDONLY);
	CALL(openat64, HERE, P, O_RDONLY);
	CALL(__openat_2, HERE, P, O_RDONLY);
	CALL(__openat64_2, HERE, P, O_RDONLY);
	CALL(openat, open("/", O_PATH), P, O_RDONLY);
	CALL(openat, open("/sys", O_PATH), P, O_RDONLY);
	CALL(opendir, P);
	CALL(fopen, P, "r");
	CALL(fopen64, P, "r");
	CALL(freopen, P, "r", stdin);
	CALL(freopen64, P, "r", stdin);
}

static void look_at_path(const char *P)
{
	struct stat s;
	struct stat64 s64;
	struct statx x;
	struct file_handle handle;
	struct statfs fs;
	struct statfs64 fs64;
	int mount;
	struct statvfs vfs;
	struct statvfs64 vfs64;
	char text[PAGE];

	CALL(stat, P, &s);
	CALL(stat64, P, &s64);
	CALL(lstat, P, &s);
	CALL(lstat64, P, &s64);
	CALL(fstatat, HERE, P, &s, 0);
	CALL(fstatat64, HERE, P, &s64, 0);
	CALL(fstatat, 0, P, &s, AT_EMPTY_PATH);
	CALL(fstatat, open("/sys", O_PATH), P, &s, AT_EMPTY_PATH);
	CALL(__xstat, 1, P, &s);
	CALL(__xstat64, 1, P, &s64);
	CALL(__lxstat, 1, P, &s);
	CALL(__lxstat64, 1, P, &s64);
	CALL(__fxstatat, 1, HERE, P, &s, 0);
	CALL(__fxstatat64, 1, HERE, P, &s64, 0);
	CALL(statx, HERE, P, 0, STATX_ALL, &x);
	CALL(statx, 0, P, 0, STATX_ALL, &x);
	CALL(statx, 0, P, 0, STATX_ALL, NULL);
	CALL(statx, 0, P, AT_EMPTY_PATH, STATX_ALL, &x);
	CALL(access, P, F_OK);
	CALL(eaccess, P, F_OK);
	CALL(euidaccess, P, F_OK);
	CALL(faccessat, HERE, P, F_OK, 0);
	CALL(readlink, P, text, sizeof(text));
	CALL(readlinkat, HERE, P, text, sizeof(text));
	CALL(__readlink_chk, P, text, 16, 16);
	CALL(__readlinkat_chk, HERE, P, text, 16, 16);
	CALL(getxattr, P, "user.a", text, 16);
	CALL(lgetxattr, P, "user.a", text, 16);
	CALL(listxattr, P, text, 16);
	CALL(llistxattr, P, text, 16);
	handle.handle_bytes = 0;
	CALL(inotify_add_watch, -1, P, IN_MODIFY);
	CALL(name_to_handle_at, -1, P, &handle, &mount, 0);
	CALL(pathconf, P, _PC_NAME_MAX);
	CALL(statfs, P, &fs);
	CALL(statfs64, P, &fs64);
	CALL(statvfs, P, &vfs);
	CALL(statvfs64, P, &vfs64);
}

static void walk_path(const char *P)
{
	struct dirent **list;
	struct dirent64 **list64;
	char text[PAGE];
	glob_t found;
	glob64_t found64;

	CALL(chdir, P);
	CALL(realpath, P, text);
	CALL(__realpath_chk, P, text, sizeof(text));
	CALL(canonicalize_file_name, P);
	CALL(scandir, P, &list, NULL, NULL);
	CALL(scandir64, P, &list64, NULL, NULL);
	CALL(scandirat, HERE, P, &list, NULL, NULL);
	CALL(scandirat64, HERE, P, &list64, NULL, NULL);
	CALL(glob, P, 0, NULL, &found);
	CALL(glob64, P, 0, NULL, &found64);
	CALL(ftw, P, visit_file, 4);
	CALL(ftw64, P, visit_file64, 4);
	CALL(nftw, P, visit, 4, FTW_PHYS);
	CALL(nftw64, P, visit64, 4, FTW_PHYS);
}

static void path_by_number(const char *P)
{
	struct open_how how = { .flags = O_RDONLY };
	struct stat s;
	struct statx x;
	char text[64];

#ifdef SYS_open
	BY_NUMBER(open, P, O_RDONLY);
	BY_NUMBER(stat, P, &s);
	BY_NUMBER(lstat, P, &s);
	BY_NUMBER(access, P, F_OK);
	BY_NUMBER(readlink, P, text, sizeof(text));
#endif
	BY_NUMBER(openat, HERE, P, O_RDONLY);
	BY_NUMBER(openat2, HERE, P, &how, sizeof(how));
	BY_NUMBER(newfstatat, HERE, P, &s, 0);
	BY_NUMBER(statx, HERE, P, 0, STATX_ALL, &x);
	BY_NUMBER(faccessat, HERE, P, F_OK);
	BY_NUMBER(faccessat2, HERE, P, F_OK, 0);
	BY_NUMBER(readlinkat, HERE, P, text, sizeof(text));
	BY_NUMBER(chdir, P);
}

static void with_path(const char *what, const char *path)
{
	const char *volatile hidden = path; /* from the compiler */

	kind = what;
	open_path(hidden);
	look_at_path(hidden);
	walk_path(hidden);
	path_by_number(hidden);
}

/* What changes something, for names that nobody can read. */
static void change(const char *P)
{
	char *none[] = { NULL };
	pid_t pid;

	CALL(chmod, P, 0600);
	CALL(lchmod, P, 0600);
	CALL(fchmodat, HERE, P, 0600, 0);
	CALL(chown, P, 0, 0);
	CALL(lchown, P, 0, 0);
	CALL(fchownat, HERE, P, 0, 0, 0);
	CALL(utime, P, NULL);
	CALL(utimes, P, NULL);
	CALL(lutimes, P, NULL);
	CALL(utimensat, HERE, P, NULL, 0);
	CALL(futimesat, HERE, P, NULL);
	CALL(unlink, P);
	CALL(rmdir, P);
	CALL(unlinkat, HERE, P, 0);
	CALL(remove, P);
	CALL(rename, P, P);
	CALL(renameat, HERE, P, HERE, P);
	CALL(renameat2, HERE, P, HERE, P, 0);
	CALL(rename, "/sys/a", P);
	CALL(rename, P, "/sys/a");
	CALL(link, P, P);
	CALL(linkat, HERE, P, HERE, P, 0);
	CALL(link, P, "/sys/a");
	CALL(mkdir, P, 0700);
	CALL(mkdirat, HERE, P, 0700);
	CALL(mknod, P, S_IFIFO | 0600, 0);
	CALL(mknodat, HERE, P, S_IFIFO | 0600, 0);
	CALL(mkfifo, P, 0600);
	CALL(mkfifoat, HERE, P, 0600);
	CALL(symlink, P, P);
	CALL(symlinkat, P, HERE, P);
	CALL(symlink, "a", P);
	CALL(truncate, P, 0);
	CALL(truncate64, P, 0);
	CALL(setxattr, P, "user.a", "b", 1, 0);
	CALL(lsetxattr, P, "user.a", "b", 1, 0);
	CALL(removexattr, P, "user.a");
	CALL(lremovexattr, P, "user.a");
	CALL(execve, P, none, none);
	CALL(execv, P, none);
	CALL(execvp, P, none);
	CALL(execvpe, P, none, none);
	CALL(execl, P, NULL, NULL);
	CALL(execle, P, NULL, NULL, none);
	CALL(execlp, P, NULL, NULL);
	CALL(execveat, HERE, P, none, none, 0);
	TRY("posix_spawn", posix_spawn(&pid, P, NULL, NULL, none, none), "P");
	TRY("posix_spawnp", posix_spawnp(&pid, P, NULL, NULL, none, none), "P");
}

/* What creates, where it can only fail. */
static void create(const char *what, const char *path)
{
	const char *volatile P = path;

	kind = what;
	change(P);
	CALL(creat, P, 0600);
	CALL(creat64, P, 0600);
#ifdef SYS_open
	BY_NUMBER(creat, P, 0600);
#endif
}

static void paths(void)
{
	static const char *const cut[] = {
		"a",
		"/",
		".",
		"..",
		"../..",
		"/s",
		"/sys",
		"/sys/bus/pci/d",
		"/dev",
		"/dev/v",
		"/dev/vfio/vfio",
		"//dev//vfio",
		"vfio",
		"/proc/",
		"sys/kernel",
	};
	static const char *const whole[] = {
		"/nonexistent",	 "/", "/proc/self/exe", "/etc", "sys/nothing",
		"/proc/self/fd", ""
	};

	with_path("NULL", NULL);
	create("NULL", NULL);
	with_path("1", (char *)1);
	create("1", (char *)1);
	with_path("8", (char *)8);
	with_path("-1", (char *)-1);
	with_path("not canonical", (char *)0x8000000000000000);
	with_path("unmapped", edge + 2 * PAGE);
	create("unmapped", edge + 2 * PAGE);
	for (size_t i = 0; i < sizeof(cut) / sizeof(*cut); i++) {
		size_t size = strlen(cut[i]);

		at_the_end(cut[i], size);
		with_path(cut[i], edge + 2 * PAGE - size);
		create(cut[i], edge + 2 * PAGE - size);
	}
	for (size_t i = 0; i < sizeof(whole) / sizeof(*whole); i++) {
		size_t size = strlen(whole[i]) + 1;

		at_the_end(whole[i], size);
		with_path(whole[i], edge + 2 * PAGE - size);
		memcpy(edge + PAGE - size / 2, whole[i], size);
		with_path(whole[i], edge + PAGE - size / 2);
	}
	memset(edge, '/', 2 * PAGE);
	with_path("slashes", edge);
	memset(edge, 'a', 2 * PAGE);
	with_path("too long", edge);
	/* A name that was there, and is not any more. */
	CHECK(open(edge + PAGE + 1, O_RDONLY) == -1 && errno == EFAULT);
	CHECK(!mprotect(edge, 2 * PAGE, PROT_NONE));
	with_path("protected", edge);
}

/* --- good names, and bad buffers --- */

static void fill(const char *what, void *memory, char **name)
{
	void *volatile B = memory;
	const char *volatile node = name[0], *volatile link = name[1];
	const char *volatile folder = name[2], *volatile file = name[3];

	kind = what;
	CALL(stat, node, B);
	CALL(stat64, folder, B);
	CALL(lstat, link, B);
	CALL(lstat64, file, B);
	CALL(fstatat, HERE, node, B, 0);
	CALL(fstatat64, HERE, file, B, 0);
	CALL(__xstat, 1, node, B);
	CALL(__xstat64, 1, file, B);
	CALL(__lxstat, 1, link, B);
	CALL(__lxstat64, 1, link, B);
	CALL(__fxstatat, 1, HERE, file, B, 0);
	CALL(__fxstatat64, 1, HERE, node, B, 0);
	CALL(statx, HERE, node, 0, STATX_ALL, B);
	CALL(statx, HERE, file, 0, STATX_ALL, B);
	CALL(readlink, link, B, 64);
	CALL(readlinkat, HERE, link, B, 64);
	CALL(__readlink_chk, link, B, 64, 64);
	CALL(__readlinkat_chk, HERE, link, B, 64, 64);
	CALL(getxattr, file, B, NULL, 0);
	CALL(lgetxattr, file, B, NULL, 0);
	CALL(listxattr, file, B, 64);
	CALL(llistxattr, file, B, 64);
	CALL(statfs, node, B);
	CALL(statfs, file, B);
	CALL(statfs64, folder, B);
	CALL(statvfs, file, B);
	CALL(statvfs64, folder, B);
	CALL(utime, "/sys/nothing", B);
	CALL(utimes, "/sys/nothing", B);
	CALL(utimensat, HERE, "/sys/nothing", B, 0);
	CALL(setxattr, "/sys/nothing", B, B, 4, 0);
	CALL(getcwd, B, 64);
	CALL(__getcwd_chk, B, 64, 64);
	CALL(realpath, folder, B);
	CALL(__realpath_chk, folder, B, PAGE);
	CALL(fopen, file, B);
	CALL(fopen64, node, B);
	CALL(freopen, file, B, stdin);
	CALL(freopen64, file, B, stdin);
	CALL(glob, folder, 0, NULL, B);
	CALL(glob64, folder, 0, NULL, B);
	CALL(scandir, folder, B, NULL, NULL);
	CALL(scandir64, folder, B, NULL, NULL);
	CALL(scandirat, HERE, folder, B, NULL, NULL);
	CALL(scandirat64, HERE, folder, B, NULL, NULL);
	CALL(readdir_r, opendir(folder), B, B);
	CALL(readdir64_r, opendir(folder), B, B);
#ifdef SYS_open
	BY_NUMBER(stat, node, B);
	BY_NUMBER(lstat, file, B);
	BY_NUMBER(readlink, link, B, 64);
#endif
	BY_NUMBER(newfstatat, HERE, folder, B, 0);
	BY_NUMBER(statx, HERE, folder, 0, STATX_ALL, B);
	BY_NUMBER(readlinkat, HERE, link, B, 64);
	BY_NUMBER(openat2, HERE, file, B, sizeof(struct open_how));
	BY_NUMBER(openat2, HERE, node, B, sizeof(struct open_how));
}

/* A DIR that is none. */
static void directories(const char *what, void *memory)
{
	DIR *volatile D = memory;

	kind = what;
	CALL(closedir, D);
	CALL(readdir, D);
	CALL(readdir64, D);
	CALL(telldir, D);
	TRY("rewinddir", (rewinddir(D), 0), "D");
	TRY("seekdir", (seekdir(D, 0), 0), "D");
}

/* --- open files, and bad buffers --- */

static void transfer(const char *what, void *memory, int fd)
{
	void *volatile B = memory;
	struct iovec one[2] = { { memory, 4 }, { memory, 4 } };

	kind = what;
	CALL(read, fd, B, 4);
	CALL(__read, fd, B, 4);
	CALL(__read_chk, fd, B, 4, 4);
	CALL(write, fd, B, 4);
	CALL(__write, fd, B, 4);
	CALL(pread, fd, B, 4, CONFIG);
	CALL(pread64, fd, B, 4, CONFIG);
	CALL(__pread64, fd, B, 4, CONFIG);
	CALL(__pread_chk, fd, B, 4, CONFIG, 4);
	CALL(__pread64_chk, fd, B, 4, CONFIG, 4);
	CALL(pwrite, fd, B, 4, CONFIG);
	CALL(pwrite64, fd, B, 4, CONFIG);
	CALL(__pwrite64, fd, B, 4, CONFIG);
	CALL(readv, fd, one, 2);
	CALL(writev, fd, one, 2);
	CALL(preadv, fd, one, 2, CONFIG);
	CALL(preadv64, fd, one, 2, CONFIG);
	CALL(pwritev, fd, one, 2, CONFIG);
	CALL(pwritev64, fd, one, 2, CONFIG);
	CALL(preadv2, fd, one, 2, CONFIG, 0);
	CALL(preadv64v2, fd, one, 2, CONFIG, 0);
	CALL(pwritev2, fd, one, 2, CONFIG, 0);
	CALL(pwritev64v2, fd, one, 2, CONFIG, 0);
	CALL(readv, fd, B, 2);
	CALL(writev, fd, B, 2);
	CALL(preadv, fd, B, 2, CONFIG);
	CALL(pwritev64v2, fd, B, 2, CONFIG, 0);
}

static void as_a_socket(void *memory, int fd)
{
	void *volatile B = memory;

	CALL(recvmsg, fd, B, MSG_DONTWAIT);
	CALL(recvmmsg, fd, B, 2, MSG_DONTWAIT, NULL);
	CALL(recv, fd, B, 4, MSG_DONTWAIT);
	CALL(__recv_chk, fd, B, 4, 4, MSG_DONTWAIT);
	CALL(recvfrom, fd, B, 4, MSG_DONTWAIT, B, B);
	CALL(__recvfrom_chk, fd, B, 4, 4, MSG_DONTWAIT, B, B);
	CALL(sendmsg, fd, B, MSG_DONTWAIT);
	CALL(sendmmsg, fd, B, 2, MSG_DONTWAIT);
	CALL(send, fd, B, 4, MSG_DONTWAIT);
	CALL(__send, fd, B, 4, MSG_DONTWAIT);
	CALL(sendto, fd, B, 4, MSG_DONTWAIT, B, 16);
	CALL(bind, fd, B, 16);
	CALL(connect, fd, B, 16);
	CALL(__connect, fd, B, 16);
	CALL(accept, fd, B, B);
	CALL(accept4, fd, B, B, SOCK_CLOEXEC);
	CALL(getsockname, fd, B, B);
	CALL(getpeername, fd, B, B);
	CALL(getsockopt, fd, SOL_SOCKET, SO_TYPE, B, B);
	CALL(setsockopt, fd, SOL_SOCKET, SO_SNDBUF, B, 4);
}

static void use(const char *what, void *memory, int fd)
{
	void *volatile B = memory;

	transfer(what, memory, fd);
	CALL(fstat, fd, B);
	CALL(fstat64, fd, B);
	CALL(fstatfs, fd, B);
	CALL(fstatfs64, fd, B);
	CALL(fstatvfs, fd, B);
	CALL(fstatvfs64, fd, B);
	CALL(__fxstat, 1, fd, B);
	CALL(__fxstat64, 1, fd, B);
	CALL(fstatat, fd, "", B, AT_EMPTY_PATH);
	CALL(statx, fd, "", AT_EMPTY_PATH, STATX_ALL, B);
	CALL(fcntl, fd, F_GETLK, B);
	CALL(fcntl64, fd, F_OFD_GETLK, B);
	CALL(__fcntl, fd, F_SETLK, B);
	as_a_socket(memory, fd);
	CALL(ioctl, fd, FIONBIO, B);
	BY_NUMBER(read, fd, B, 4);
	BY_NUMBER(pwrite64, fd, B, 4, CONFIG);
	BY_NUMBER(fstat, fd, B);
	BY_NUMBER(ioctl, fd, FIONBIO, B);
	/* Addresses that are to be mapped, or are not. */
	CALL(mmap, (char *)((uintptr_t)B | 1), PAGE, PROT_READ,
	     MAP_SHARED | MAP_FIXED, fd, 0);
	CALL(mmap64, (char *)((uintptr_t)B | 1), PAGE, PROT_READ,
	     MAP_SHARED | MAP_FIXED, fd, 0);
	CALL(munmap, (char *)((uintptr_t)B | 1), PAGE);
	CALL(mprotect, (char *)((uintptr_t)B | 1), PAGE, PROT_READ);
	CALL(madvise, (char *)((uintptr_t)B | 1), PAGE, MADV_DONTNEED);
	CALL(mremap, (char *)((uintptr_t)B | 1), PAGE, PAGE, 0);
	CALL(pkey_mprotect, (char *)((uintptr_t)B | 1), PAGE, PROT_READ, 0);
	CALL(shmdt, (char *)((uintptr_t)B | 1));
	CALL(shmat, -1, (char *)((uintptr_t)B | 1), SHM_REMAP);
}

/* What hands a file on, and what libc itself looks into. */
static void pass_on(const char *what, void *memory, int fd)
{
	void *volatile B = memory;

	kind = what;
	CALL(splice, fd, B, open("/dev/null", O_WRONLY), NULL, 4, 0);
	CALL(splice, open("/dev/zero", O_RDONLY), NULL, fd, B, 4, 0);
	CALL(sendfile, fd, fd, B, 4);
	CALL(sendfile64, fd, fd, B, 4);
	CALL(copy_file_range, fd, B, fd, NULL, 4, 0);
	CALL(copy_file_range, fd, NULL, fd, B, 4, 0);
	CALL(epoll_ctl, epoll_create1(0), EPOLL_CTL_ADD, fd, B);
	CALL(epoll_ctl, -1, EPOLL_CTL_ADD, fd, B);
	TRY("aio_read", (aio_read(B), 0), "B");
	TRY("aio_read64", (aio_read64(B), 0), "B");
	TRY("aio_write", (aio_write(B), 0), "B");
	TRY("aio_write64", (aio_write64(B), 0), "B");
	TRY("aio_fsync", (aio_fsync(O_SYNC, B), 0), "B");
	TRY("aio_fsync64", (aio_fsync64(O_SYNC, B), 0), "B");
	CALL(lio_listio, LIO_WAIT, B, 2, NULL);
	CALL(lio_listio64, LIO_WAIT, B, 2, NULL);
	CALL(lio_listio, 77, B, 2, NULL);
	CALL(fsetxattr, fd, B, B, 4, 0);
	CALL(fremovexattr, fd, B);
	CALL(execve, "/nonexistent", B, B);
	CALL(execv, "/nonexistent", B);
	CALL(execve, "/proc/self/fd", NULL, B);
	CALL(execvp, "/nonexistent", B);
	CALL(execvpe, "/nonexistent", B, B);
	CALL(fexecve, fd, B, B);
	CALL(execveat, HERE, "/nonexistent", B, B, 0);
	TRY("posix_spawn", posix_spawn(B, "/nonexistent", NULL, NULL, B, B),
	    "B");
	TRY("posix_spawnp", posix_spawnp(B, "/nonexistent", NULL, NULL, B, B),
	    "B");
	CALL(fdopen, fd, B);
	CALL(fflush, B);
	CALL(fclose, B);
	CALL(fileno, B);
	CALL(fileno_unlocked, B);
}

/* VFIO's ioctls, of all three kinds of file. */
static void ask(const char *what, void *memory, int fd)
{
	void *volatile B = memory;
	char text[8];

	kind = what;
	for (int number = 100; number < 125; number++) {
		snprintf(text, sizeof(text), "%d", number);
		TRY("ioctl", ioctl(fd, _IO(VFIO_TYPE, number), B), text);
	}
}

static const struct {
	const char *name;
	size_t offset;
} addresses[] = {
	{ "behind", 2 * PAGE },
	{ "across", 2 * PAGE - 1 },
};

static void with_memory(void (*with)(const char *, void *, int), int fd)
{
	with("NULL", NULL, fd);
	with("1", (void *)1, fd);
	with("-1", (void *)-1, fd);
	for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++)
		with(addresses[i].name, edge + addresses[i].offset, fd);
	with("read-only", constant, fd);
}

static void names(char **name)
{
	fill("NULL", NULL, name);
	fill("1", (void *)1, name);
	for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++)
		fill(addresses[i].name, edge + addresses[i].offset, name);
	fill("read-only", constant, name);
	directories("NULL", NULL);
	directories("behind", edge + 2 * PAGE);
}

int main(int argc, char **argv)
{
	const char *what = argv[3];

	edge = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	constant = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	CHECK(edge != MAP_FAILED && constant != MAP_FAILED);
	CHECK(!munmap(edge + 2 * PAGE, PAGE));
	at_the_end("a", 1);
	if (!strcmp(what, "paths")) {
		paths();
	} else if (!strcmp(what, "names")) {
		names(argv + 4);
	} else if (!strcmp(what, "file")) {
		int fd = open(argv[4], O_RDWR);

		with_memory(use, fd);
		with_memory(pass_on, fd);
	} else {
		struct client client = set_up(argv);

		if (!strcmp(what, "device")) {
			with_memory(use, client.device);
		} else {
			int fds[] = { client.device, client.group,
				      client.container };
			for (int i = 0; i < 3; i++) {
				printf("- %d\n", i);
				ask("good", zeroed, fds[i]);
				with_memory(ask, fds[i]);
			}
		}
	}
	(void)argc;
	puts("ok");
	return 0;
}
