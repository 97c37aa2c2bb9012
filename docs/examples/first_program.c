// SPDX-License-Identifier: MIT
// A first program for /dev/vfio: it runs on Linux and under `vfioemu run`
// alike.  first_program GROUP DEVICE
#include <err.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "%s", name);
	return result;
}
#define CALL(fd, request, argument) \
	call(fd, request, (void *)(argument), #request)

int main(int argc, char **argv)
{
	char path[64];
	unsigned short id[2];

	if (argc != 3)
		errx(2, "usage: %s GROUP DEVICE", argv[0]);
	snprintf(path, sizeof(path), "/dev/vfio/%s", argv[1]);
	int container = open("/dev/vfio/vfio", O_RDWR),
	    group = open(path, O_RDWR);
	if (container < 0 || group < 0)
		err(1, "%s", path);
	CALL(group, VFIO_GROUP_SET_CONTAINER, &container);
	CALL(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
	int device = CALL(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]);

	struct vfio_region_info config = {
		.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX
	};
	CALL(device, VFIO_DEVICE_GET_REGION_INFO, &config);
	if (pread(device, id, sizeof(id), config.offset) != sizeof(id))
		err(1, "config space");
	printf("%s is %04x:%04x\n", argv[2], id[0], id[1]);

	void *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.vaddr = (__u64)ram,
		.iova = 0x100000,
		.size = 1 << 20,
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE
	};
	CALL(container, VFIO_IOMMU_MAP_DMA, &map);
	printf("it may write 1 MiB at 0x100000\n");
	map.size = 4096;
	if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map) < 0)
		warn("mapping a page of it again");
}
