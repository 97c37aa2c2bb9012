/* SPDX-License-Identifier: MIT */
/* A program that allows itself few system calls: those that a VFIO program
 * makes, and those whose names it is given. GROUP DEVICE HOW FILE NAME...
 *
 *   work    they are all that is allowed once it is set up; else it is killed
 *   all     from before it opens anything
 *   refuse  as work, but what is not allowed fails with EPERM
 *   enosys  with ENOSYS
 *   eio-... as refuse or enosys, and what we need is not allowed
 *   free    without a filter
 */
#include "client.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#define CALL(name) { #name, SYS_##name }

static const struct {
	const char *name;
	unsigned int number;
} calls[] = {
	CALL(capget),
	CALL(clone),
	CALL(clone3),
	CALL(close),
	CALL(close_range),
	CALL(connect),
	CALL(exit),
	CALL(fcntl),
	CALL(fstat),
	CALL(fstatfs),
	CALL(futex),
	CALL(getcwd),
	CALL(getdents64),
	CALL(getpeername),
	CALL(getpid),
	CALL(getsockname),
	CALL(getsockopt),
	CALL(gettid),
	CALL(getuid),
	CALL(geteuid),
	CALL(getgid),
	CALL(ioctl),
	CALL(lseek),
	CALL(madvise),
	CALL(memfd_create),
	CALL(mmap),
	CALL(mprotect),
	CALL(munmap),
	CALL(newfstatat),
	CALL(openat),
	CALL(pidfd_open),
	CALL(prctl),
	CALL(pread64),
	CALL(prlimit64),
	CALL(process_vm_readv),
	CALL(process_vm_writev),
	CALL(pwrite64),
	CALL(read),
	CALL(readlinkat),
	CALL(recvfrom),
	CALL(recvmsg),
	CALL(rseq),
	CALL(rt_sigprocmask),
	CALL(sendmsg),
	CALL(set_robust_list),
	CALL(socket),
	CALL(statx),
	CALL(write),
	CALL(rt_sigaction),
	CALL(faccessat2),
};

/* What any such program calls. */
static const unsigned int own[] = {
	SYS_mmap,	SYS_munmap,	  SYS_write, SYS_read,	SYS_ioctl,
	SYS_exit_group, SYS_rt_sigreturn, SYS_brk,   SYS_close,
};

static struct sock_filter filter[256];
static unsigned short length;

static void allow(unsigned int number)
{
	CHECK(length < 250);
	filter[length++] = (struct sock_filter)BPF_JUMP(
		BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
							SECCOMP_RET_ALLOW);
}

static void confine(unsigned int otherwise, char **names)
{
	struct sock_fprog program = { 0, filter };

	filter[length++] = (struct sock_filter)BPF_STMT(
		BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		allow(own[i]);
	for (; *names; names++) {
		size_t i = 0;

		while (i < sizeof(calls) / sizeof(*calls) &&
		       strcmp(calls[i].name, *names))
			i++;
		if (i == sizeof(calls) / sizeof(*calls)) {
			fprintf(stderr, "what is %s()?\n", *names);
			_exit(2);
		}
		allow(calls[i].number);
	}
	filter[length++] =
		(struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
	program.len = length;
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* All that a VMM does while its guest runs. */
static void work(struct client *client, void *memory, void *shared)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	char buffer[256];

	for (int i = 0; i < 3; i++) {
		CHECK(!ioctl(client->device, VFIO_DEVICE_GET_INFO, &info));
		CHECK(info.num_regions == 9);
		CHECK(pread(client->device, buffer, 256, CONFIG) == 256);
		CHECK(pwrite(client->device, buffer, 4, CONFIG) == 4);
		REFUSED(pread(client->device, (void *)8, 4, CONFIG), EFAULT);
		REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, (void *)8),
			EFAULT);
		CHECK(!map_dma(client->container, memory, 0, 16 * PAGE));
		CHECK(!dma_fill(client->device, 1, 4096, 0x77));
		CHECK(((char *)memory)[1] == 0x77);
		CHECK(!unmap_dma(client->container, 0, 16 * PAGE));
		CHECK(!map_dma(client->container, shared, 0, 16 * PAGE));
		CHECK(!dma_fill(client->device, 1, 4096, 0x78));
		CHECK(((char *)shared)[1] == 0x78);
		CHECK(!unmap_dma(client->container, 0, 16 * PAGE));
	}
}

/* What fails is what the library is for, and as if the daemon had died. */
static void refused(struct client *client, void *memory, int file)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	char text[5] = "";

	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, &info), EIO);
	REFUSED(pread(client->device, text, 4, CONFIG), EIO);
	REFUSED(pwrite(client->device, text, 4, CONFIG), EIO);
	REFUSED(map_dma(client->container, memory, 0, PAGE), EIO);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, client->device, 0) ==
		      MAP_FAILED &&
	      errno == EIO);
	CHECK(read(file, text, 4) == 4 && !strcmp(text, "text"));
	REFUSED(ioctl(file, VFIO_DEVICE_GET_INFO, &info), ENOTTY);
	/* Another file comes to the number. */
	CHECK(!close(client->device));
}

int main(int argc, char **argv)
{
	const char *how = argv[3];
	bool kill = !strcmp(how, "work") || !strcmp(how, "all");
	int number = strstr(how, "enosys") ? ENOSYS : EPERM;
	unsigned int otherwise =
		kill ? SECCOMP_RET_KILL_PROCESS
		     : SECCOMP_RET_ERRNO | (unsigned int)number;
	int file = open(argv[4], O_RDWR), memfd = memfd_create("shared", 0);
	void *memory = pages(16), *shared;
	struct client client;

	(void)argc;
	CHECK(memfd >= 0 && !ftruncate(memfd, 16 * PAGE));
	shared = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		      memfd, 0);
	CHECK(shared != MAP_FAILED && file >= 0);
	puts("begins"); /* stdio has its buffer then */
	fflush(stdout);
	if (!strcmp(how, "all"))
		confine(otherwise, argv + 5);
	client = set_up(argv);
	if (strcmp(how, "all") && strcmp(how, "free"))
		confine(otherwise, argv + 5);
	if (!strncmp(how, "eio-", 4))
		refused(&client, memory, file);
	else
		work(&client, memory, shared);
	puts("ok");
	fflush(stdout);
	_exit(0);
}
