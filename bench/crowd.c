/* SPDX-License-Identifier: MIT */
/**
 * @file crowd.c
 * Many clients, each a process of its own that holds a container, a group and
 * a device, has one mapping and dirty tracking on, and waits.
 *
 *   crowd SOCKET CLIENTS FIRST_GROUP
 *
 * Client i uses group FIRST_GROUP + i and the device named after that number
 * as a UUID. Prints "ready" when all of them wait, and ends them when its
 * standard input ends.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire_client.h"

enum { MAPPED = 256 << 20 };

/* What a client of the crowd does; returns which step failed, or NULL. */
static const char *hold(const char *path, int group)
{
	struct wire_client client = { 0 };
	struct wire_file container, group_file, device;
	char text[64] = { 0 };
	int fd;

	errno = -wire_connect(&client, path, 0, 0);
	if (errno)
		return "connect";
	if (wire_open(&client, "/dev/vfio/vfio", &container))
		return "container";
	snprintf(text, sizeof(text), "/dev/vfio/%d", group);
	if (wire_open(&client, text, &group_file))
		return "group";
	if (wire_ioctl_offer(&client, &group_file, VFIO_GROUP_SET_CONTAINER,
			     &container.fd, sizeof(int)))
		return "SET_CONTAINER";
	if (wire_ioctl(&client, &container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return "SET_IOMMU";
	snprintf(text, sizeof(text), "00000000-0000-4000-8000-%012d", group);
	if (wire_adopt((int)wire_ioctl(&client, &group_file,
				       VFIO_GROUP_GET_DEVICE_FD,
				       (uint64_t)(uintptr_t)text),
		       &device))
		return "GET_DEVICE_FD";
	void *memory = wire_memory(MAPPED, &fd);
	if (!memory || wire_share(&client, memory, MAPPED, fd))
		return "MEM_SHARE";
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)(uintptr_t)memory,
		.size = MAPPED,
	};
	if (wire_ioctl_offer(&client, &container, VFIO_IOMMU_MAP_DMA, &map,
			     sizeof(map)))
		return "MAP_DMA";
	struct vfio_iommu_type1_dirty_bitmap dirty = {
		.argsz = sizeof(dirty),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
	};
	if (wire_ioctl_offer(&client, &container, VFIO_IOMMU_DIRTY_PAGES,
			     &dirty, sizeof(dirty)))
		return "DIRTY_PAGES";
	return NULL;
}

int main(int argc, char **argv)
{
	int ready[2];
	char byte = 0;

	if (argc != 4)
		errx(2, "usage: crowd SOCKET CLIENTS FIRST_GROUP");
	int clients = atoi(argv[2]);
	if (pipe(ready))
		err(1, "pipe");
	setpgid(0, 0);
	for (int i = 0; i < clients; i++) {
		switch (fork()) {
		case -1:
			err(1, "fork");
		case 0:
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			const char *failed = hold(argv[1], atoi(argv[3]) + i);
			if (failed)
				warn("client %d: %s", i, failed);
			byte = !!failed;
			if (write(ready[1], &byte, 1) == 1)
				pause();
			_exit(1);
		default:
			/* one after the other: a backlog is not the point */
			if (read(ready[0], &byte, 1) != 1 || byte)
				errx(1, "client %d is not ready", i);
		}
	}
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	/* whoever waits for us finds all of them gone */
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (wait(NULL) > 0)
		;
	return 0;
}
