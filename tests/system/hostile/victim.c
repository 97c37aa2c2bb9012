/* SPDX-License-Identifier: MIT */
/**
 * @file victim.c
 * A client that holds everything that can be held, and dies.
 *
 *   victim SOCKET GROUP DEVICE DIE_AT
 *
 * DIE_AT n: SIGKILL before the n-th packet is sent, or after the n-th one has
 * come, counted together. DIE_AT 0: go through all of it, print how many
 * packets that were, and exit without closing anything. DIE_AT -1: do it over
 * and over, a byte to standard output for each packet, until somebody else
 * kills this process.
 *
 * The device is a dma-engine of type 1. Nothing is offered with a call, so the
 * daemon has to ask for every byte.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "wire_client.h"

enum {
	PAGES = 64,
	ASKS = 16,
	SIZE = PAGES << 12,
	SHARED_IOVA = 1 << 24,
	PRIVATE_IOVA = 2 << 24,
	STATE_PRE_COPY = 6, /* <linux/vfio.h> before 6.2 does not have it */
	/* BAR 0 of the dma-engine */
	CONTROL = 0x10,
	BASE = 0x18,
	AREA = 0x20,
	RATE = 0x30,
	ARG0 = 0x80,
	COMMAND = 0x98,
	COMMAND_PIN = 1,
	COMMAND_WRITE = 3,
};

static int die_at, packets;

static void count_packet(void *data)
{
	(void)data;
	packets++;
	if (packets == die_at)
		kill(getpid(), SIGKILL);
	if (die_at < 0 && write(1, ".", 1) != 1)
		_exit(1);
}

static void must(int64_t result, const char *what)
{
	if (result < 0)
		errx(1, "%s: %s", what, strerror((int)-result));
}

struct guest {
	struct wire_client client, second, service;
	struct wire_file container, group, device, data;
	char *shared, *private;
	int memfd, eventfd;
};

static int64_t ask(struct guest *guest, const struct wire_file *file,
		   uint32_t cmd, void *arg)
{
	return wire_ioctl(&guest->client, file, cmd, (uint64_t)(uintptr_t)arg);
}

static void set_up(struct guest *guest, const char *path, const char *number,
		   const char *name)
{
	char text[64] = "/dev/vfio/";
	struct wire_client *client = &guest->client;

	client->hook = guest->second.hook = guest->service.hook = count_packet;
	must(wire_connect(client, path, 0, 0), "connect");
	must(wire_connect(&guest->second, path, client->session, 0), "join");
	must(wire_connect(&guest->service, path, client->session,
			  VFIOEMU_F_SERVICE),
	     "service");
	must(wire_open(client, "/dev/vfio/vfio", &guest->container), "open");
	must(wire_open(client, strcat(text, number), &guest->group), "group");
	must(ask(guest, &guest->group, VFIO_GROUP_SET_CONTAINER,
		 &guest->container.fd),
	     "SET_CONTAINER");
	must(wire_ioctl(client, &guest->container, VFIO_SET_IOMMU,
			VFIO_TYPE1v2_IOMMU),
	     "SET_IOMMU");
	memset(text, 0, sizeof(text));
	strncpy(text, name, sizeof(text) - 1);
	int64_t fd = ask(guest, &guest->group, VFIO_GROUP_GET_DEVICE_FD, text);
	must(fd, "GET_DEVICE_FD");
	must(wire_adopt((int)fd, &guest->device), "device");
}

static void map(struct guest *guest, uint64_t iova, void *memory)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)(uintptr_t)memory,
		.iova = iova,
		.size = SIZE,
	};

	must(ask(guest, &guest->container, VFIO_IOMMU_MAP_DMA, &map), "MAP");
}

static void map_memory(struct guest *guest)
{
	guest->shared = wire_memory(SIZE, &guest->memfd);
	guest->private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!guest->shared || guest->private == MAP_FAILED)
		errx(1, "memory");
	must(wire_share(&guest->client, guest->shared, SIZE, guest->memfd),
	     "MEM_SHARE");
	map(guest, SHARED_IOVA, guest->shared);
	map(guest, PRIVATE_IOVA, guest->private);
}

static void set_register(struct guest *guest, uint64_t offset, uint64_t value)
{
	must(wire_pwrite(&guest->client, &guest->device, &value, sizeof(value),
			 offset),
	     "register");
}

/* Private memory is pinned and written by the call; the shared one then goes
 * on. */
static void let_device_write(struct guest *guest)
{
	uint64_t pin[] = { PRIVATE_IOVA, PAGES, 3, COMMAND_PIN };

	must(wire_pwrite(&guest->client, &guest->device, pin, sizeof(pin),
			 ARG0),
	     "pin");
	set_register(guest, BASE, PRIVATE_IOVA);
	set_register(guest, AREA, SIZE);
	set_register(guest, ARG0, 4);
	set_register(guest, COMMAND, COMMAND_WRITE);
	set_register(guest, BASE, SHARED_IOVA);
	set_register(guest, RATE, 20000);
	set_register(guest, CONTROL, 1);
}

static void track(struct guest *guest)
{
	struct vfio_iommu_type1_dirty_bitmap start = {
		.argsz = sizeof(start),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
	};

	must(ask(guest, &guest->container, VFIO_IOMMU_DIRTY_PAGES, &start),
	     "START");
}

static void get_bitmap(struct guest *guest)
{
	uint64_t words[PAGES / 64];
	struct {
		struct vfio_iommu_type1_dirty_bitmap head;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} get = {
		.head = { .argsz = sizeof(get),
			  .flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP },
		.get = { .iova = SHARED_IOVA,
			 .size = SIZE,
			 .bitmap = { .pgsize = 4096,
				     .size = sizeof(words),
				     .data = (void *)words } },
	};

	must(ask(guest, &guest->container, VFIO_IOMMU_DIRTY_PAGES, &get),
	     "GET_BITMAP");
}

static void set_irq(struct guest *guest)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} irq = {
		.set = { .argsz = sizeof(irq),
			 .flags = VFIO_IRQ_SET_DATA_EVENTFD |
				  VFIO_IRQ_SET_ACTION_TRIGGER,
			 .index = VFIO_PCI_MSI_IRQ_INDEX,
			 .count = 1 },
	};

	guest->eventfd = irq.fd = eventfd(0, EFD_CLOEXEC);
	must(ask(guest, &guest->device, VFIO_DEVICE_SET_IRQS, &irq),
	     "SET_IRQS");
}

static void log_dma(struct guest *guest)
{
	struct vfio_device_feature_dma_logging_range range = {
		.iova = SHARED_IOVA, .length = SIZE
	};
	struct {
		struct vfio_device_feature head;
		struct vfio_device_feature_dma_logging_control control;
	} start = {
		.head = { .argsz = sizeof(start),
			  .flags = VFIO_DEVICE_FEATURE_SET |
				   VFIO_DEVICE_FEATURE_DMA_LOGGING_START },
		.control = { .page_size = 4096,
			     .num_ranges = 1,
			     .ranges = (uint64_t)(uintptr_t)&range },
	};

	must(ask(guest, &guest->device, VFIO_DEVICE_FEATURE, &start),
	     "LOGGING_START");
}

static void begin_migration(struct guest *guest)
{
	char bytes[4096];
	struct {
		struct vfio_device_feature head;
		struct vfio_device_feature_mig_state state;
	} state = {
		.head = { .argsz = sizeof(state),
			  .flags = VFIO_DEVICE_FEATURE_SET |
				   VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE },
		.state = { .device_state = STATE_PRE_COPY, .data_fd = -1 },
	};

	must(ask(guest, &guest->device, VFIO_DEVICE_FEATURE, &state),
	     "PRE_COPY");
	must(wire_adopt(state.state.data_fd, &guest->data), "data fd");
	must(wire_read(&guest->second, &guest->data, bytes, sizeof(bytes)),
	     "read");
}

static void unmap(struct guest *guest)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap),
						    .iova = PRIVATE_IOVA,
						    .size = SIZE };

	must(ask(guest, &guest->container, VFIO_IOMMU_UNMAP_DMA, &unmap),
	     "UNMAP");
}

/* From here on the device asks for each of its writes. */
static void serve_memory(struct guest *guest)
{
	set_register(guest, CONTROL, 0);
	map(guest, PRIVATE_IOVA, guest->private);
	set_register(guest, BASE, PRIVATE_IOVA);
	set_register(guest, CONTROL, 1);
	for (int i = 0; i < ASKS; i++)
		must(wire_serve(&guest->service), "serve");
}

static void tear_down(struct guest *guest)
{
	wire_close(&guest->data);
	wire_close(&guest->device);
	wire_close(&guest->group);
	wire_close(&guest->container);
	wire_disconnect(&guest->service);
	wire_disconnect(&guest->second);
	wire_disconnect(&guest->client);
	munmap(guest->shared, SIZE);
	munmap(guest->private, SIZE);
	close(guest->memfd);
	close(guest->eventfd);
}

int main(int argc, char **argv)
{
	struct guest guest = { 0 };

	if (argc != 5)
		errx(2, "usage: victim SOCKET GROUP DEVICE DIE_AT");
	die_at = atoi(argv[4]);
	do {
		set_up(&guest, argv[1], argv[2], argv[3]);
		map_memory(&guest);
		track(&guest);
		set_irq(&guest);
		log_dma(&guest);
		let_device_write(&guest);
		get_bitmap(&guest);
		begin_migration(&guest);
		unmap(&guest);
		if (guest.client.hello.memory_mode == VFIOEMU_MEMORY_ASK)
			serve_memory(&guest);
		if (die_at < 0)
			tear_down(&guest);
	} while (die_at < 0);
	printf("%d\n", packets);
	return 0;
}
