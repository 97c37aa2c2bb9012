/* SPDX-License-Identifier: MIT */
/* fork, vfork, clone, exec and SCM_RIGHTS: emulated fds are where they go. */
#include "client.h"

#include <sched.h>

/* After exec: the fds that we were given on the command line. */
static int executed(char **argv)
{
	int container = atoi(argv[2]), device = atoi(argv[3]);
	unsigned char *memory = pages(1);

	CHECK(is_container(container));
	CHECK(is_device(device));
	/* Memory of this program, which has nothing of the other's. */
	CHECK(!map_dma(container, memory, 64 * PAGE, PAGE));
	CHECK(!dma_fill(device, 64 * PAGE, PAGE, 0x5a));
	CHECK(memory[0] == 0x5a && memory[PAGE - 1] == 0x5a);
	CHECK(!unmap_dma(container, 64 * PAGE, PAGE));
	return 0;
}

static void exec_self(const struct client *client, const char *self)
{
	char container[16], device[16];
	int fd = dup(client->device); /* without close-on-exec */

	snprintf(container, sizeof(container), "%d", client->container);
	snprintf(device, sizeof(device), "%d", fd);
	execl(self, self, "executed", container, device, NULL);
	_exit(99);
}

static void fork_both(const struct client *client, unsigned char *memory)
{
	int ready[2], go[2];
	char byte = 1;
	pid_t pid;

	CHECK(!pipe(ready) && !pipe(go));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		unsigned char *own = pages(1);

		CHECK(is_device(client->device));
		CHECK(write(ready[1], &byte, 1) == 1);
		CHECK(read(go[0], &byte, 1) == 1);
		/*
		 * The parent's mapping is of the parent's memory, which
		 * vfio_dma_rw() does not reach in our name.
		 */
		CHECK(dma_fill(client->device, 16 * PAGE, 1, 2) == -EFAULT);
		CHECK(memory[0] == 0);
		CHECK(!map_dma(client->container, own, 32 * PAGE, PAGE));
		CHECK(!dma_fill(client->device, 32 * PAGE, 1, 3));
		CHECK(own[0] == 3);
		_exit(7);
	}
	CHECK(read(ready[0], &byte, 1) == 1);
	CHECK(!dma_fill(client->device, 16 * PAGE, 1, 1));
	CHECK(memory[0] == 1);
	CHECK(write(go[1], &byte, 1) == 1);
	CHECK(wait_for(pid) == 7);
	CHECK(memory[0] == 1);
	/* What the child mapped has lost its memory, but is still mapped. */
	CHECK(dma_fill(client->device, 32 * PAGE, 1, 4) == -EPERM);
	CHECK(!unmap_dma(client->container, 32 * PAGE, PAGE));
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
}

static void many_forks(const struct client *client)
{
	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			pid_t inner = fork();

			if (!inner)
				_exit(is_device(client->device) ? 5 : 1);
			CHECK(is_container(client->container));
			CHECK(wait_for(inner) == 5);
			_exit(6);
		}
		CHECK(is_device(client->device));
		CHECK(wait_for(pid) == 6);
	}
}

/* A child that shares our memory but not our fds, until it execs. */
static void vforked(const struct client *client, const char *self)
{
	static volatile int answer;
	pid_t pid = vfork();

	if (!pid) {
		answer = ioctl(client->container, VFIO_CHECK_EXTENSION, 3);
		close(client->device);
		dup2(0, client->group);
		close_range(20, ~0u, 0);
		(void)(read(client->group, &(char){ 0 }, 0) + 1);
		execl(self, self, "true", NULL);
		_exit(99);
	}
	CHECK(wait_for(pid) == 0);
	CHECK(answer == 1);
	CHECK(is_device(client->device));
	struct vfio_group_status status = { .argsz = sizeof(status) };
	CHECK(!ioctl(client->group, VFIO_GROUP_GET_STATUS, &status));
}

/* Before this process has made any call of its own. */
static void vforked_early(void)
{
	pid_t pid = vfork();

	if (!pid) {
		struct stat status;

		(void)fstat(0, &status);
		_exit(0);
	}
	CHECK(wait_for(pid) == 0);
}

/* A child that shares our memory goes to a directory of its own. */
static void vforked_away(void)
{
	pid_t pid;

	CHECK(!chdir("/"));
	pid = vfork();
	if (!pid) {
		struct stat status;

		_exit(chdir("/proc/self") || stat("status", &status) ||
		      !stat("dev/vfio/vfio", &status));
	}
	CHECK(wait_for(pid) == 0);
	int fd = open("dev/vfio/vfio", O_RDWR);
	CHECK(is_container(fd));
	CHECK(!close(fd));
}

/* Without libc, which then does not know that there was a fork. */
static void raw_fork(const struct client *client)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	CHECK(pid >= 0);
	if (!pid)
		_exit(is_device(client->device) ? 8 : 1);
	CHECK(wait_for(pid) == 8);
	CHECK(is_device(client->device));
}

static void send_fd(int sock, int fd)
{
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET,
				  SCM_RIGHTS } };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	CHECK(sendmsg(sock, &msg, 0) == 1);
}

static int receive_fd(int sock)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	int fd;

	CHECK(recvmsg(sock, &msg, 0) == 1);
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

/* A process that has never opened anything gets a device. */
static void passed(const struct client *client)
{
	int pair[2];
	pid_t pid;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(client->container);
		close(client->device);
		/* The number is known to be an ordinary file's ... */
		int null = open("/dev/null", O_RDWR);
		CHECK(write(null, "x", 1) == 1);
		/* ... and is closed in a way that nobody notices. */
		FILE *file = fdopen(null, "w");
		CHECK(file && !fclose(file));
		int fd = receive_fd(pair[1]);
		CHECK(fd == null && is_device(fd));
		CHECK(is_container(receive_fd(pair[1])));
		_exit(4);
	}
	send_fd(pair[0], client->device);
	send_fd(pair[0], client->container);
	CHECK(wait_for(pid) == 4);
	close(pair[0]);
	close(pair[1]);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "true"))
		return 0;
	if (argc > 1 && !strcmp(argv[1], "executed"))
		return executed(argv);

	vforked_early();
	struct client client = set_up(argv);
	unsigned char *memory = pages(1);
	pid_t pid;

	CHECK(!map_dma(client.container, memory, 16 * PAGE, PAGE));
	fork_both(&client, memory);
	many_forks(&client);
	vforked(&client, argv[0]);
	raw_fork(&client);
	passed(&client);
	vforked_away();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		exec_self(&client, argv[0]);
	CHECK(wait_for(pid) == 0);
	CHECK(!dma_fill(client.device, 16 * PAGE, 1, 9) && memory[0] == 9);
	CHECK(!unmap_dma(client.container, 16 * PAGE, PAGE));
	/* The last copies close the device, whoever has them. */
	tear_down(&client);
	client = set_up(argv);
	exec_self(&client, argv[0]);
	return 1;
}
