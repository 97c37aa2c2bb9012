/* SPDX-License-Identifier: MIT */
/* System calls by number, as some libraries make them. */
#include "client.h"

#include <linux/close_range.h>
#include <linux/openat2.h>

int main(int argc, char **argv)
{
	struct open_how how = { .flags = O_RDWR | O_CLOEXEC };
	uint32_t id = 0;
	struct iovec part = { &id, 4 };
	struct stat status;
	int fd;

	(void)argc;
#ifdef SYS_open
	fd = (int)syscall(SYS_open, "/dev/vfio/vfio", O_RDWR);
	CHECK(syscall(SYS_ioctl, fd, VFIO_CHECK_EXTENSION, 3) == 1);
	CHECK(syscall(SYS_dup2, fd, 40) == 40 && is_container(40));
	close(fd);
#endif
	fd = (int)syscall(SYS_openat, AT_FDCWD, "/dev/vfio/vfio", O_RDWR, 0);
	CHECK(syscall(SYS_ioctl, fd, VFIO_CHECK_EXTENSION, 3) == 1);
	CHECK(syscall(SYS_dup, fd) >= 0);
	CHECK(syscall(SYS_fcntl, fd, F_DUPFD, 60) == 60 && is_container(60));
	CHECK(syscall(SYS_dup3, fd, 41, O_CLOEXEC) == 41 && is_container(41));
	CHECK(!syscall(SYS_fstat, fd, &status) && S_ISCHR(status.st_mode));
	CHECK(!syscall(SYS_close, fd));
	REFUSED((int)syscall(SYS_ioctl, fd, VFIO_CHECK_EXTENSION, 3), EBADF);
	fd = (int)syscall(SYS_openat2, AT_FDCWD, "/dev/vfio/vfio", &how,
			  sizeof(how));
	CHECK(is_container(fd) && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	REFUSED((int)syscall(SYS_openat, AT_FDCWD, "/dev/vfio/99", O_RDWR, 0),
		ENOENT);
	CHECK(!syscall(SYS_close_range, fd, 100, 0));

	struct client client = set_up(argv);
	CHECK(syscall(SYS_pread64, client.device, &id, 4, CONFIG) == 4);
	CHECK(id == 0x0d1e1d0f);
	id = 0;
	CHECK(syscall(SYS_preadv, client.device, &part, 1, CONFIG, 0) == 4);
	CHECK(id == 0x0d1e1d0f);
	CHECK(syscall(SYS_pwrite64, client.device, &id, 4, CONFIG) == 4);
	REFUSED((int)syscall(SYS_read, client.container, &id, 4), EINVAL);
	REFUSED((int)syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_SHARED,
			     client.container, 0),
		ENODEV);
	void *memory =
		(void *)syscall(SYS_mmap, NULL, PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	CHECK(!syscall(SYS_mprotect, memory, PAGE, PROT_READ));
	CHECK(!syscall(SYS_munmap, memory, PAGE));
	/* And those that are nobody's business. */
	struct stat other;
	char link[64] = "", again[64] = "";
	CHECK(!syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/exe", &status, 0));
	CHECK(!stat("/proc/self/exe", &other) && status.st_ino == other.st_ino);
	CHECK(syscall(SYS_readlinkat, AT_FDCWD, "/proc/self", link, 63) > 0);
	CHECK(readlink("/proc/self", again, 63) > 0 && !strcmp(link, again));
	CHECK(!syscall(SYS_faccessat, AT_FDCWD, "/proc/self", F_OK));
	REFUSED((int)syscall(SYS_faccessat, AT_FDCWD, "/nowhere", F_OK),
		ENOENT);
	CHECK(syscall(SYS_getpid) == getpid());
	CHECK(syscall(100000) == -1 && errno == ENOSYS);
	CHECK(syscall(-1) == -1 && errno == ENOSYS);
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	CHECK(pid >= 0);
	if (!pid)
		syscall(SYS_exit_group, is_device(client.device) ? 3 : 1);
	CHECK(wait_for(pid) == 3);
	tear_down(&client);
	puts("ok");
	return 0;
}
