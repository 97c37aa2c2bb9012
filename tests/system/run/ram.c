/* SPDX-License-Identifier: MIT */
/*
 * What VMMs do with memory: RAM of each kind is mapped for DMA, the device
 * writes to it, and it is looked whether that arrived.
 *
 * GROUP DEVICE SIZE: a dma-engine behind an IOMMU, and how much is mapped of
 * each kind. Prints a line for each kind: its name, and "ok" or an errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

enum {
	AREA = 0x18,
	AREA_SIZE = 0x20,
	ARG0 = 0x80,
	COMMAND = 0x98,
	RESULT = 0xa0
};
enum { WRITE = 3 };

static int container, device;

static void set(unsigned int offset, uint64_t value)
{
	if (pwrite(device, &value, 8, offset) != 8)
		perror("pwrite");
}

/* The device writes a stamp to that page: whether it could. */
static int stamp(uint64_t iova)
{
	uint64_t done = 0;

	set(AREA, iova);
	set(AREA_SIZE, 4096);
	set(ARG0, 1);
	set(COMMAND, WRITE);
	return pread(device, &done, 8, RESULT) == 8 && done == 1;
}

static void report(const char *kind, const char *what)
{
	printf("%s %s\n", kind, what);
	fflush(stdout);
}

static void use(const char *kind, char *memory, size_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = 0x10000000,
		.size = size,
	};
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap),
						    .iova = map.iova,
						    .size = size };
	const char *last = memory + size - 4096;

	if (memory == MAP_FAILED) {
		report(kind, strerrorname_np(errno));
		return;
	}
	if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
		report(kind, strerrorname_np(errno));
		return;
	}
	if (!stamp(map.iova) || !stamp(map.iova + size - 4096))
		report(kind, "no DMA");
	else if (memcmp(memory, "VFE-DMA", 7) || memcmp(last, "VFE-DMA", 7))
		report(kind, "went elsewhere");
	else
		report(kind, "ok");
	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
		perror("unmap");
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3,
						   0 };
	struct __user_cap_data_struct data[2];

	syscall(SYS_capget, &header, data);
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	data[0].permitted &= ~(1u << CAP_IPC_LOCK);
	syscall(SYS_capset, &header, data);
}

int main(int argc, char **argv)
{
	struct rlimit limit = { 65536, 65536 };
	const int both = PROT_READ | PROT_WRITE;
	char path[64];
	int group, memfd;
	uint16_t command = 6;
	size_t size;

	if (argc != 4)
		return 2;
	size = strtoull(argv[3], NULL, 0);
	drop_capabilities();
	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		return 3;
	snprintf(path, sizeof(path), "/dev/vfio/%s", argv[1]);
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(path, O_RDWR);
	if (container < 0 || group < 0 ||
	    ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return 4;
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]);
	if (device < 0 || pwrite(device, &command, 2, (7ull << 40) + 4) != 2)
		return 5;
	use("private",
	    mmap(NULL, size, both, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), size);
	use("anonymous",
	    mmap(NULL, size, both, MAP_SHARED | MAP_ANONYMOUS, -1, 0), size);
	memfd = memfd_create("ram", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)size))
		return 6;
	use("memfd", mmap(NULL, size, both, MAP_SHARED, memfd, 0), size);
	use("copied", mmap(NULL, size, both, MAP_PRIVATE, memfd, 0), size);

	struct vfio_region_info region = { .argsz = sizeof(region),
					   .index =
						   VFIO_PCI_BAR4_REGION_INDEX };
	if (!ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) && region.size)
		use("bar",
		    mmap(NULL, region.size, both, MAP_SHARED, device,
			 (off_t)region.offset),
		    region.size);
	return 0;
}
