/* SPDX-License-Identifier: MIT */
/**
 * @file msix.c
 * Drive a dma-engine by the guest's own vfio-pci: DMA through the guest's
 * IOMMU, and every vector of MSI and of MSI-X on an eventfd of its own.
 *
 *   msix BDF    of a function that vfio-pci is bound to
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define IOVA	    0x40000000ul
#define PAGES	    64
#define MAX_VECTORS 64
#define ROUNDS	    4
#define TIMEOUT_MS  60000

static int call(int fd, unsigned long request, void *arg, const char *what)
{
	int ret = ioctl(fd, request, arg);

	if (ret < 0)
		fail("%s: %s", what, strerror(errno));
	return ret;
}

/* The group that the kernel put the function in. */
static int open_group(const char *bdf)
{
	char path[128], target[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group",
		 bdf);
	ssize_t size = readlink(path, target, sizeof(target) - 1);
	if (size < 0)
		fail("%s: %s", path, strerror(errno));
	target[size] = '\0';
	snprintf(path, sizeof(path), "/dev/vfio/%.32s",
		 strrchr(target, '/') + 1);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	return fd;
}

static unsigned char *map_memory(int container)
{
	void *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)at,
		.iova = IOVA,
		.size = PAGES * PAGE,
	};

	if (at == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	call(container, VFIO_IOMMU_MAP_DMA, &map, "MAP_DMA");
	return at;
}

/* BAR 0, mapped if the region can be: its first page holds the registers. */
static struct engine map_engine(int device)
{
	struct vfio_region_info bar = { .argsz = sizeof(bar) };
	struct vfio_region_info config = {
		.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX
	};
	uint16_t command = 6; /* memory space, bus master */

	call(device, VFIO_DEVICE_GET_REGION_INFO, &bar, "REGION_INFO");
	call(device, VFIO_DEVICE_GET_REGION_INFO, &config, "REGION_INFO");
	if (pwrite(device, &command, 2, (off_t)config.offset + 4) != 2)
		fail("COMMAND: %s", strerror(errno));
	void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device,
			(off_t)bar.offset);
	if (at == MAP_FAILED)
		fail("mmap of BAR 0: %s", strerror(errno));

	struct engine engine = { at };
	if (engine_read(engine, ENGINE_ID) != ENGINE_ID_VALUE)
		fail("BAR 0 is no dma-engine's");
	return engine;
}

/* Give each vector of an interrupt an eventfd: how many there are. */
static unsigned int set_vectors(int device, unsigned int index, int *fds)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };
	union {
		struct vfio_irq_set set;
		char room[sizeof(struct vfio_irq_set) + MAX_VECTORS * 4];
	} arg = { .set = { .flags = VFIO_IRQ_SET_DATA_EVENTFD |
				    VFIO_IRQ_SET_ACTION_TRIGGER,
			   .index = index } };

	call(device, VFIO_DEVICE_GET_IRQ_INFO, &info, "IRQ_INFO");
	if (!info.count || info.count > MAX_VECTORS)
		fail("interrupt %u has %u vectors", index, info.count);
	for (unsigned int i = 0; i < info.count; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	memcpy(arg.set.data, fds, info.count * sizeof(*fds));
	arg.set.count = info.count;
	arg.set.argsz = (uint32_t)(sizeof(arg.set) + info.count * sizeof(*fds));
	call(device, VFIO_DEVICE_SET_IRQS, &arg, "SET_IRQS");
	return info.count;
}

static void drop_vectors(int device, unsigned int index, const int *fds,
			 unsigned int count)
{
	struct vfio_irq_set none = { .argsz = sizeof(none),
				     .flags = VFIO_IRQ_SET_DATA_NONE |
					      VFIO_IRQ_SET_ACTION_TRIGGER,
				     .index = index };

	call(device, VFIO_DEVICE_SET_IRQS, &none, "SET_IRQS");
	for (unsigned int i = 0; i < count; i++)
		close(fds[i]);
}

/* Raise one vector: it arrives on its eventfd and on no other one. */
static uint64_t raise(struct engine engine, const int *fds, unsigned int count,
		      unsigned int vector)
{
	uint64_t total = 0, got;

	engine_write(engine, ENGINE_IRQ_VECTOR, vector);
	engine_write(engine, ENGINE_IRQ_EVERY, 1);
	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct pollfd ready = { fds[vector], POLLIN, 0 };
		int64_t done = engine_command(engine, ENGINE_COMMAND_WRITE, 1);

		if (done != 1)
			fail("RESULT is %lld", (long long)done);
		if (poll(&ready, 1, TIMEOUT_MS) != 1)
			fail("vector %u of %u: no interrupt", vector, count);
		if (read(fds[vector], &got, sizeof(got)) != sizeof(got))
			fail("eventfd: %s", strerror(errno));
		total += got;
	}
	for (unsigned int i = 0; i < count; i++)
		if (read(fds[i], &got, sizeof(got)) > 0)
			fail("vector %u came for vector %u", i, vector);
	return total;
}

int main(int argc, char **argv)
{
	static const struct {
		unsigned int index;
		const char *name;
	} kinds[] = { { VFIO_PCI_MSI_IRQ_INDEX, "msi" },
		      { VFIO_PCI_MSIX_IRQ_INDEX, "msix" } };
	int fds[MAX_VECTORS];

	if (argc != 2)
		fail("usage: msix BDF");
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		fail("/dev/vfio/vfio: %s", strerror(errno));
	int group = open_group(argv[1]);
	call(group, VFIO_GROUP_SET_CONTAINER, &container, "SET_CONTAINER");
	call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU,
	     "SET_IOMMU");
	unsigned char *memory = map_memory(container);
	int device =
		call(group, VFIO_GROUP_GET_DEVICE_FD, argv[1], "GET_DEVICE_FD");
	struct engine engine = map_engine(device);
	uint64_t id = engine_read(engine, ENGINE_DEVICE_ID);

	engine_write(engine, ENGINE_CONTROL, 0);
	engine_write(engine, ENGINE_BASE, IOVA);
	engine_write(engine, ENGINE_SIZE, PAGES * PAGE);
	engine_write(engine, ENGINE_WRITE_SIZE, PAGE);
	engine_write(engine, ENGINE_PATTERN, 0);
	printf("ok");
	for (size_t kind = 0; kind < 2; kind++) {
		unsigned int index = kinds[kind].index;
		unsigned int count = set_vectors(device, index, fds);
		uint64_t total = 0;

		for (unsigned int vector = 0; vector < count; vector++)
			total += raise(engine, fds, count, vector);
		drop_vectors(device, index, fds, count);
		printf(" %s=%u interrupts=%llu", kinds[kind].name, count,
		       (unsigned long long)total);
	}

	engine_write(engine, ENGINE_IRQ_EVERY, 0);
	if (engine_command(engine, ENGINE_COMMAND_WRITE, PAGES) != PAGES)
		fail("RESULT is not %d", PAGES);
	for (size_t i = 0; i < PAGES; i++) {
		const char *problem = stamp_problem(memory + i * PAGE,
						    IOVA + i * PAGE, id, PAGE);

		if (problem)
			fail("page %zu: %s", i, problem);
	}
	printf(" pages=%d\n", PAGES);
	return 0;
}
