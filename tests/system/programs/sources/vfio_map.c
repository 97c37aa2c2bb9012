/* SPDX-License-Identifier: MIT */
/* Map what can be mapped of a device, and memory for its DMA; overlap, unmap in
 * parts and all, map again. */
#include "vfio.h"

#define MIB (1ul << 20)

static int map(int container, void *memory, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_map m = {
		.argsz = sizeof(m),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)memory,
		.iova = iova,
		.size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &m) ? -errno : 0;
}

static long unmap(int container, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap u = { .argsz = sizeof(u),
						.iova = iova,
						.size = size };

	return ioctl(container, VFIO_IOMMU_UNMAP_DMA, &u) ? -errno
							  : (long)u.size;
}

static void expect(const char *what, long is, long should)
{
	if (is != should) {
		printf("%s: %ld, not %ld\n", what, is, should);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct opened o;
	char *memory;

	if (argc != 3)
		return 2;
	o = open_device(argv);
	for (unsigned int i = 0; i < 6; i++) {
		struct vfio_region_info region = { .argsz = sizeof(region),
						   .index = i };
		char *bar;

		if (ioctl(o.device, VFIO_DEVICE_GET_REGION_INFO, &region) ||
		    !region.size)
			continue;
		if (!(region.flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		bar = mmap(NULL, 4096, PROT_READ, MAP_SHARED, o.device,
			   region.offset +
				   (region.flags & VFIO_REGION_INFO_FLAG_CAPS
					    ? 4096
					    : 0));
		if (bar == MAP_FAILED)
			die("mmap of a BAR");
		printf("bar %u mapped\n", i);
	}
	memory = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (unsigned long i = 0; i < 64; i++)
		expect("map", map(o.container, memory + i * MIB, i * MIB, MIB),
		       0);
	expect("overlap", map(o.container, memory, 32 * MIB + 4096, 4096),
	       -EEXIST);
	puts("overlap: EEXIST");
	expect("unmap of half a mapping", unmap(o.container, 4096, 4096),
	       -EINVAL);
	expect("unmap of eight", unmap(o.container, 8 * MIB, 8 * MIB), 8 * MIB);
	expect("unmap of nothing", unmap(o.container, 8 * MIB, 8 * MIB), 0);
	expect("map again", map(o.container, memory, 8 * MIB, 8 * MIB), 0);
	for (unsigned long i = 0; i < 1000; i++) {
		uint64_t iova = (1ul << 32) + i * 4096;

		expect("small map",
		       map(o.container, memory + i * 4096, iova, 4096), 0);
		if (i % 3 == 0)
			expect("small unmap", unmap(o.container, iova, 4096),
			       4096);
	}
	expect("an address that is not aligned",
	       map(o.container, memory + 1, 1ul << 33, 4096), -EINVAL);
	expect("a size of nothing", map(o.container, memory, 1ul << 33, 0),
	       -EINVAL);
	expect("unmap of all", unmap(o.container, 0, 1ul << 33),
	       64 * MIB + 666 * 4096);
	puts("unmapped all");
	puts("PASSED");
	return 0;
}
