/* SPDX-License-Identifier: MIT */
/**
 * @file calls.c
 * Times calls of the daemon and a plain socket ping-pong, in turns.
 *
 *   calls ROUNDS COUNT CLIENT_CPU SERVER_CPU WHAT...
 *
 * WHAT is "floor", or "check=SOCKET", "region=SOCKET,GROUP,DEVICE",
 * "map=SOCKET,GROUP,DEVICE". Prints a line for each round: how many
 * nanoseconds one of each WHAT took, on average over COUNT of them. The floor's
 * server is on SERVER_CPU; whoever starts this puts the daemon on the same CPU.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"
#include "wire_client.h"

enum {
	MAPPED = 2 << 20,
	MAX_TASKS = 16,
};

/** One WHAT, ready to be timed. */
struct task {
	void (*once)(struct task *task);
	struct wire_client client;
	struct wire_file container, group, device;
	void *memory;
	int floor;
};

static void once_floor(struct task *task)
{
	floor_call(task->floor);
}

static void once_check(struct task *task)
{
	if (wire_ioctl(&task->client, &task->container, VFIO_CHECK_EXTENSION,
		       VFIO_TYPE1v2_IOMMU) != 1)
		errx(1, "CHECK_EXTENSION");
}

static void once_region(struct task *task)
{
	uint32_t word;

	if (wire_pread(&task->client, &task->device, &word, sizeof(word), 0) !=
	    sizeof(word))
		errx(1, "region read");
}

static void once_map(struct task *task)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)(uintptr_t)task->memory,
		.iova = 1 << 30,
		.size = MAPPED,
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = 1 << 30,
		.size = MAPPED,
	};

	if (wire_ioctl_offer(&task->client, &task->container,
			     VFIO_IOMMU_MAP_DMA, &map, sizeof(map)))
		errx(1, "MAP_DMA");
	if (wire_ioctl_offer(&task->client, &task->container,
			     VFIO_IOMMU_UNMAP_DMA, &unmap, sizeof(unmap)) ||
	    unmap.size != MAPPED)
		errx(1, "UNMAP_DMA");
}

static void connect_daemon(struct task *task, char *where)
{
	const char *path = strsep(&where, ",");
	int error = wire_connect(&task->client, path, 0, 0);

	if (error ||
	    wire_open(&task->client, "/dev/vfio/vfio", &task->container))
		errx(1, "%s: %s", path, strerror(-error));
}

static void attach_device(struct task *task, char *where)
{
	char node[64];
	const char *group = strsep(&where, ",");
	const char *device = strsep(&where, ",");

	snprintf(node, sizeof(node), "/dev/vfio/%s", group);
	if (wire_open(&task->client, node, &task->group) ||
	    wire_ioctl_offer(&task->client, &task->group,
			     VFIO_GROUP_SET_CONTAINER, &task->container.fd,
			     sizeof(int)) ||
	    wire_ioctl(&task->client, &task->container, VFIO_SET_IOMMU,
		       VFIO_TYPE1v2_IOMMU))
		errx(1, "group %s", group);
	char name[64] = { 0 };
	strncpy(name, device, sizeof(name) - 1);
	int64_t fd =
		wire_ioctl(&task->client, &task->group,
			   VFIO_GROUP_GET_DEVICE_FD, (uint64_t)(uintptr_t)name);
	if (fd < 0 || wire_adopt((int)fd, &task->device))
		errx(1, "device %s: %s", device, strerror((int)-fd));
}

static void set_up(struct task *task, char *what, int server_cpu)
{
	char *where = what;
	const char *name = strsep(&where, "=");

	if (!strcmp(name, "floor")) {
		task->once = once_floor;
		task->floor = floor_serve(server_cpu);
		return;
	}
	if (!where)
		errx(2, "%s of which daemon?", name);
	char *rest = strchr(where, ',');
	connect_daemon(task, where);
	if (!strcmp(name, "check")) {
		task->once = once_check;
		return;
	}
	if (!rest)
		errx(2, "%s of which device?", name);
	attach_device(task, rest + 1);
	int fd;
	task->memory = wire_memory(MAPPED, &fd);
	if (!task->memory ||
	    wire_share(&task->client, task->memory, MAPPED, fd))
		errx(1, "shared memory");
	task->once = strcmp(name, "map") ? once_region : once_map;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
	static struct task tasks[MAX_TASKS];
	int count = argc - 5;

	if (count < 1 || count > MAX_TASKS)
		errx(2,
		     "usage: calls ROUNDS COUNT CLIENT_CPU SERVER_CPU WHAT...");
	int rounds = atoi(argv[1]), calls = atoi(argv[2]);
	run_on(atoi(argv[3]));
	for (int i = 0; i < count; i++)
		set_up(&tasks[i], argv[5 + i], atoi(argv[4]));
	for (int round = -1; round < rounds; round++) {
		for (int i = 0; i < count; i++) {
			uint64_t start = now();

			for (int call = 0; call < calls; call++)
				tasks[i].once(&tasks[i]);
			/* the first round warms up */
			if (round >= 0)
				printf("%.1f ",
				       (double)(now() - start) / calls);
		}
		if (round >= 0) {
			printf("\n");
			fflush(stdout);
		}
	}
	return 0;
}
