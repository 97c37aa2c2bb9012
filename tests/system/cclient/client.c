/* SPDX-License-Identifier: MIT */
/**
 * @file client.c
 * A client written from protocol/wire.md and protocol/vfioemu_wire.h alone:
 * opens container, group and device, maps memory, has the device pin pages,
 * reads the dirty bitmap, and checks each answer. It offers nothing, so the
 * daemon has to ask for every byte and every fd.
 *
 *   client SOCKET GROUP DEVICE
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "vfioemu_wire.h"

#define CHECK(what)                                              \
	do {                                                     \
		if (!(what))                                     \
			errx(1, "line %d: %s", __LINE__, #what); \
	} while (0)
#define PAGE 4096ul

static struct {
	struct vfioemu_msg msg;
	unsigned char data[VFIOEMU_MAX_DATA];
} packet;
static int channel;
static uint32_t last_seq;

/* Send `packet` with `size` bytes of data, and an fd if it is not -1. */
static void put(size_t size, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET,
				  SCM_RIGHTS } };
	struct iovec iov = { &packet, sizeof(packet.msg) + size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		packet.msg.flags |= VFIOEMU_F_FD;
	}
	CHECK(sendmsg(channel, &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len);
}

/* Take a message into `packet`: the size of its data, and its fd or -1. */
static size_t get(int *fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { &packet, sizeof(packet) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	ssize_t size = recvmsg(channel, &msg, MSG_CMSG_CLOEXEC);

	CHECK(size >= (ssize_t)sizeof(packet.msg));
	*fd = -1;
	if (msg.msg_controllen)
		memcpy(fd, CMSG_DATA(&control.header), sizeof(*fd));
	return (size_t)size - sizeof(packet.msg);
}

/* Read or write our own memory at any address, without a signal. */
static int64_t copy(uint64_t address, size_t size, int write)
{
	struct iovec ours = { packet.data, size };
	struct iovec theirs = { (void *)(uintptr_t)address, size };
	ssize_t done =
		write ? process_vm_writev(getpid(), &ours, 1, &theirs, 1, 0)
		      : process_vm_readv(getpid(), &ours, 1, &theirs, 1, 0);

	return done == (ssize_t)size ? 0 : -EFAULT;
}

/* Answer what is in `packet`. */
static void answer(size_t size, int got)
{
	struct vfioemu_msg ask = packet.msg;
	struct vfioemu_msg *msg = &packet.msg;
	size_t out = 0;
	int fd = -1;

	*msg = (struct vfioemu_msg){ .type = VFIOEMU_ANSWER, .seq = ask.seq };
	switch (ask.type) {
	case VFIOEMU_READ_USER:
		CHECK(ask.arg[1] <= VFIOEMU_MAX_DATA); /* enough for us */
		msg->arg[0] = (uint64_t)copy(ask.arg[0], ask.arg[1], 0);
		msg->arg[1] = ask.arg[1];
		out = msg->arg[0] ? 0 : ask.arg[1];
		break;
	case VFIOEMU_WRITE_USER:
		CHECK(ask.arg[1] == size);
		msg->arg[0] = (uint64_t)copy(ask.arg[0], size, 1);
		break;
	case VFIOEMU_PIN:
		CHECK(!madvise((void *)(uintptr_t)ask.arg[0], ask.arg[1] * PAGE,
			       MADV_POPULATE_WRITE));
		msg->arg[0] = ask.arg[1];
		break;
	case VFIOEMU_TAKE_FD:
		fd = (int)ask.arg[0];
		break;
	case VFIOEMU_GIVE_FD:
		msg->arg[0] = (uint64_t)got;
		break;
	default:
		errx(1, "the daemon asks for %u", ask.type);
	}
	put(out, fd);
}

/* Make a call and serve what is asked: its result; an fd that came with it. */
static int64_t call(struct vfioemu_msg msg, size_t size, int *fd)
{
	int got;

	packet.msg = msg;
	packet.msg.seq = ++last_seq;
	put(size, -1);
	for (;;) {
		size_t data = get(&got);

		CHECK(packet.msg.seq == last_seq);
		if (packet.msg.type == VFIOEMU_REPLY)
			break;
		answer(data, got);
	}
	if (fd)
		*fd = got;
	return (int64_t)packet.msg.arg[0];
}

/* What a token is called: its serial. */
static uint64_t serial(int fd, const char *kind)
{
	struct sockaddr_un name = { 0 };
	socklen_t size = sizeof(name) - 1;
	unsigned long long number;
	char daemon[33], found[16];

	CHECK(!getpeername(fd, (struct sockaddr *)&name, &size));
	CHECK(sscanf(name.sun_path + 1,
		     VFIOEMU_TOKEN_PREFIX "%32[0-9a-f]/%15[a-z]/%llu", daemon,
		     found, &number) == 3);
	CHECK(!strcmp(found, kind));
	return number;
}

static int open_node(const char *path)
{
	int fd;

	memcpy(packet.data, path, strlen(path));
	CHECK(call((struct vfioemu_msg){ .type = VFIOEMU_OPEN }, strlen(path),
		   &fd) == 0);
	CHECK(fd >= 0);
	return fd;
}

static int64_t ioctl_at(uint64_t token, unsigned int cmd, const void *arg)
{
	return call((struct vfioemu_msg){ .type = VFIOEMU_IOCTL,
					  .token = token,
					  .arg = { cmd,
						   (uint64_t)(uintptr_t)arg } },
		    0, NULL);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct vfioemu_hello hello;
	char path[64];

	CHECK(argc == 4 && strlen(argv[1]) < sizeof(address.sun_path));
	strcpy(address.sun_path, argv[1]);
	channel = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(!connect(channel, (struct sockaddr *)&address, sizeof(address)));
	CHECK(call(
		      (struct vfioemu_msg){
			      .type = VFIOEMU_HELLO,
			      .flags = VFIOEMU_F_IPC_LOCK,
			      .arg = { VFIOEMU_WIRE_MAGIC,
				       VFIOEMU_WIRE_VERSION |
					       (uint64_t)VFIOEMU_WIRE_VERSION
						       << 32,
				       0, UINT64_MAX } },
		      0, NULL) == 0);
	memcpy(&hello, packet.data, sizeof(hello));
	CHECK(hello.version == VFIOEMU_WIRE_VERSION &&
	      hello.max_data == VFIOEMU_MAX_DATA);

	int container_fd = open_node("/dev/vfio/vfio");
	uint64_t container = serial(container_fd, "container");
	snprintf(path, sizeof(path), "/dev/vfio/%s", argv[2]);
	uint64_t group = serial(open_node(path), "group");
	CHECK(ioctl_at(container, VFIO_CHECK_EXTENSION,
		       (void *)VFIO_TYPE1v2_IOMMU) == 1);
	CHECK(ioctl_at(container, VFIO_IOMMU_MAP_DMA, NULL) == -EINVAL);
	CHECK(ioctl_at(group, VFIO_GROUP_SET_CONTAINER, &container_fd) == 0);
	CHECK(ioctl_at(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU) ==
	      0);
	CHECK(ioctl_at(container, VFIO_IOMMU_MAP_DMA, NULL) == -EFAULT);
	int64_t device_fd = ioctl_at(group, VFIO_GROUP_GET_DEVICE_FD, argv[3]);
	CHECK(device_fd >= 0);
	uint64_t device = serial((int)device_fd, "device");
	struct vfio_device_info info = { .argsz = sizeof(info) };
	CHECK(ioctl_at(device, VFIO_DEVICE_GET_INFO, &info) == 0 &&
	      info.num_regions == 9);

	unsigned char *memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)(uintptr_t)memory,
		.iova = 16 * PAGE,
		.size = 16 * PAGE,
	};
	CHECK(ioctl_at(container, VFIO_IOMMU_MAP_DMA, &map) == 0);
	CHECK(ioctl_at(container, VFIO_IOMMU_MAP_DMA, &map) == -EEXIST);
	struct vfio_iommu_type1_dirty_bitmap start = {
		.argsz = sizeof(start),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
	};
	CHECK(ioctl_at(container, VFIO_IOMMU_DIRTY_PAGES, &start) == 0);

	/* The test device's commands: pin pages 2 and 3, write into page 5. */
	uint64_t pin[8] = { 1, 18 * PAGE, 2, 3 };
	uint64_t rw[8] = { 3, 21 * PAGE, 100, 1, 0xab };
	uint64_t result[8];
	struct vfioemu_msg command = { .type = VFIOEMU_PWRITE,
				       .token = device,
				       .arg = { (uint64_t)(uintptr_t)pin,
						sizeof(pin) } };
	CHECK(call(command, 0, NULL) == sizeof(pin));
	command.arg[0] = (uint64_t)(uintptr_t)rw;
	CHECK(call(command, 0, NULL) == sizeof(rw));
	command.type = VFIOEMU_PREAD;
	command.arg[0] = (uint64_t)(uintptr_t)result;
	CHECK(call(command, 0, NULL) == sizeof(result) && result[0] == 0);
	CHECK(memory[5 * PAGE] == 0xab && memory[5 * PAGE + 99] == 0xab &&
	      !memory[5 * PAGE + 100]);

	uint64_t bitmap = 0;
	struct {
		struct vfio_iommu_type1_dirty_bitmap head;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} ask = { { sizeof(ask), VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP },
		  { 16 * PAGE,
		    16 * PAGE,
		    { PAGE, sizeof(bitmap), (void *)&bitmap } } };
	CHECK(ioctl_at(container, VFIO_IOMMU_DIRTY_PAGES, &ask) == 0);
	CHECK(bitmap == (1 << 2 | 1 << 3 | 1 << 5));
	CHECK(ioctl_at(container, VFIO_IOMMU_DIRTY_PAGES, &ask) == 0);
	CHECK(bitmap == (1 << 2 | 1 << 3)); /* still pinned */
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap),
						    .iova = 16 * PAGE,
						    .size = 16 * PAGE };
	CHECK(ioctl_at(container, VFIO_IOMMU_UNMAP_DMA, &unmap) == 0 &&
	      unmap.size == 16 * PAGE);

	close((int)device_fd);
	CHECK(ioctl_at(group, VFIO_GROUP_UNSET_CONTAINER, NULL) == 0);
	CHECK(ioctl_at(12345, VFIO_CHECK_EXTENSION, NULL) == -EBADF);
	CHECK(packet.msg.flags & VFIOEMU_F_UNPROVED);
	puts("all answers are right");
	return 0;
}
