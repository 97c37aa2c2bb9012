/* SPDX-License-Identifier: MIT */
/**
 * @file client.h
 * What the programs of these tests share. They are ordinary VFIO clients: not
 * a word here knows of the preload library or of a daemon.
 *
 * Each gets GROUP DEVICE as its first arguments, for an "oracle" device with a
 * container of its own, and exits with 0 if all was well.
 */
#ifndef CLIENT_H
#define CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE		  4096ul
#define CONFIG		  (7ull << VFIO_OFFSET_SHIFT)
#define VFIO_OFFSET_SHIFT 40

#define CHECK(what)                                                         \
	do {                                                                \
		if (!(what)) {                                              \
			fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, \
				__LINE__, #what, errno);                    \
			_exit(1);                                           \
		}                                                           \
	} while (0)
/* `call` fails with `error`. */
#define REFUSED(call, error)             \
	do {                             \
		errno = 0;               \
		CHECK((call) == -1);     \
		CHECK(errno == (error)); \
	} while (0)

struct client {
	const char *group_name, *device_name;
	int container, group, device;
};

static inline int open_group(const char *number)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	return open(path, O_RDWR);
}

/* Everything that comes before a device can be used. */
static inline struct client set_up(char **argv)
{
	struct client client = { argv[1], argv[2], -1, -1, -1 };
	struct vfio_group_status status = { .argsz = sizeof(status) };

	CHECK(client.device_name);
	client.container = open("/dev/vfio/vfio", O_RDWR);
	CHECK(client.container >= 0);
	CHECK(ioctl(client.container, VFIO_GET_API_VERSION) == 0);
	client.group = open_group(client.group_name);
	CHECK(client.group >= 0);
	CHECK(!ioctl(client.group, VFIO_GROUP_GET_STATUS, &status));
	CHECK(status.flags == VFIO_GROUP_FLAGS_VIABLE);
	CHECK(!ioctl(client.group, VFIO_GROUP_SET_CONTAINER,
		     &client.container));
	CHECK(!ioctl(client.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	client.device = ioctl(client.group, VFIO_GROUP_GET_DEVICE_FD,
			      client.device_name);
	CHECK(client.device >= 0);
	return client;
}

static inline void tear_down(const struct client *client)
{
	CHECK(!close(client->device));
	CHECK(!close(client->group));
	CHECK(!close(client->container));
}

static inline int map_dma(int container, void *memory, uint64_t iova,
			  size_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static inline int unmap_dma(int container, uint64_t iova, size_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap),
						    .iova = iova,
						    .size = size };
	int result = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);

	CHECK(result || unmap.size == size);
	return result;
}

/* Give the device a command (vfioemu/devices/oracle/device.py): its result. */
static inline int64_t command(int device, uint64_t op, uint64_t a, uint64_t b,
			      uint64_t c, uint64_t d)
{
	uint64_t words[8] = { op, a, b, c, d };

	CHECK(pwrite(device, words, sizeof(words), 0) == sizeof(words));
	CHECK(pread(device, words, sizeof(words), 0) == sizeof(words));
	return (int64_t)words[0];
}

/* The device fills memory with a byte; 0 or a negative errno. */
static inline int64_t dma_fill(int device, uint64_t iova, size_t size, int byte)
{
	return command(device, 3, iova, size, 1, (uint64_t)byte);
}

/* The device reads a byte; or a negative errno. */
static inline int dma_byte(int device, uint64_t iova)
{
	int64_t result = command(device, 3, iova, 1, 0, 0);
	unsigned char byte;

	if (result)
		return (int)result;
	CHECK(pread(device, &byte, 1, 0x1000) == 1);
	return byte;
}

static inline void *pages(size_t npages)
{
	void *memory = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

/* What a child left behind: its exit status. */
static inline int wait_for(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* The descriptor still works: a group fd and a container fd each answer. */
static inline bool is_container(int fd)
{
	return ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) == 1;
}

static inline bool is_device(int fd)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	return !ioctl(fd, VFIO_DEVICE_GET_INFO, &info) && info.num_regions >= 9;
}

#endif
