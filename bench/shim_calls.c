/* SPDX-License-Identifier: MIT */
/**
 * @file shim_calls.c
 * Times what a program sees of the preload library, in turns.
 *
 *   shim_calls ROUNDS COUNT CLIENT_CPU SERVER_CPU GROUP DEVICE
 *
 * An ordinary VFIO program, to be started with the library preloaded. Prints a
 * line for each round: how many nanoseconds one of each took, on average over
 * COUNT of them:
 *
 *   read and ioctl of unrelated files; the same by libc's own functions;
 *   the floor (floor.h);
 *   CHECK_EXTENSION, a 4-byte region read, and DEVICE_GET_INFO, which has an
 *   argument in memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

enum {
	UNRELATED = 100, /* more of them: one is that much shorter */
};

static ssize_t (*libc_read)(int, void *, size_t);
static int (*libc_ioctl)(int, unsigned long, ...);
static int zero, queue, container, device, floor_socket;

static void once_read(void)
{
	char byte;

	if (read(zero, &byte, 1) != 1)
		err(1, "read");
}

static void once_libc_read(void)
{
	char byte;

	if (libc_read(zero, &byte, 1) != 1)
		err(1, "read");
}

static void once_ioctl(void)
{
	int size;

	if (ioctl(queue, FIONREAD, &size))
		err(1, "ioctl");
}

static void once_libc_ioctl(void)
{
	int size;

	if (libc_ioctl(queue, FIONREAD, &size))
		err(1, "ioctl");
}

static void once_floor(void)
{
	floor_call(floor_socket);
}

static void once_check(void)
{
	if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1)
		err(1, "CHECK_EXTENSION");
}

static void once_region(void)
{
	uint32_t word;

	if (pread(device, &word, sizeof(word), 0) != sizeof(word))
		err(1, "region read");
}

static void once_info(void)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	if (ioctl(device, VFIO_DEVICE_GET_INFO, &info))
		err(1, "DEVICE_GET_INFO");
}

static const struct {
	void (*once)(void);
	int times;
} tasks[] = {
	{ once_read, UNRELATED },  { once_libc_read, UNRELATED },
	{ once_ioctl, UNRELATED }, { once_libc_ioctl, UNRELATED },
	{ once_floor, 1 },	   { once_check, 1 },
	{ once_region, 1 },	   { once_info, 1 },
};

static void set_up(const char *group_number, const char *name)
{
	void *libc = dlopen("libc.so.6", RTLD_NOW);
	int pipe_ends[2];
	char path[64];
	int group;

	if (!libc || pipe(pipe_ends))
		err(1, "set up");
	*(void **)&libc_read = dlsym(libc, "read");
	*(void **)&libc_ioctl = dlsym(libc, "ioctl");
	queue = pipe_ends[0];
	zero = open("/dev/zero", O_RDONLY);
	snprintf(path, sizeof(path), "/dev/vfio/%s", group_number);
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(path, O_RDWR);
	if (zero < 0 || container < 0 || group < 0 ||
	    ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		err(1, "%s", path);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (device < 0)
		err(1, "%s", name);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double time_of(size_t task, int count)
{
	double start;

	count *= tasks[task].times;
	start = now();
	for (int i = 0; i < count; i++)
		tasks[task].once();
	return (now() - start) / count;
}

int main(int argc, char **argv)
{
	if (argc != 7)
		errx(2, "ROUNDS COUNT CLIENT_CPU SERVER_CPU GROUP DEVICE");
	int rounds = atoi(argv[1]), count = atoi(argv[2]);

	floor_socket = floor_serve(atoi(argv[4]));
	run_on(atoi(argv[3]));
	set_up(argv[5], argv[6]);
	for (int round = -1; round < rounds; round++) {
		for (size_t i = 0; i < sizeof(tasks) / sizeof(*tasks); i++) {
			double taken = time_of(i, count);

			if (round >= 0) /* the first one warms up */
				printf("%.2f ", taken);
		}
		if (round >= 0)
			putchar('\n');
	}
	return 0;
}
