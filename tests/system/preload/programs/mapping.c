/* SPDX-License-Identifier: MIT */
/* Regions in our own memory. The device is one whose region 2 can be mapped. */
#include "client.h"

#define SIZE 0x4000

static off_t region_offset(const struct client *client)
{
	struct vfio_region_info region = { .argsz = sizeof(region),
					   .index = 2 };

	CHECK(!ioctl(client->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	CHECK(region.flags & VFIO_REGION_INFO_FLAG_MMAP && region.size == SIZE);
	return (off_t)region.offset;
}

static unsigned char *map(const struct client *client, void *where, int flags)
{
	return mmap(where, SIZE, PROT_READ | PROT_WRITE, flags, client->device,
		    region_offset(client));
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);
	unsigned char *first = map(&client, NULL, MAP_SHARED);
	unsigned char *second, *place = pages(8), *hint;
	off_t offset = region_offset(&client);
	uint32_t value = 0x12345678;

	(void)argc;
	CHECK(first != MAP_FAILED);
	/* What is stored is what read() sees, and the other way round. */
	memcpy(first + 0x100, &value, sizeof(value));
	value = 0;
	CHECK(pread(client.device, &value, 4, offset + 0x100) == 4);
	CHECK(value == 0x12345678);
	value = 0x55;
	CHECK(pwrite(client.device, &value, 4, offset + 0x104) == 4);
	CHECK(first[0x104] == 0x55);
	/* At a place of our own, and near one. */
	second = map(&client, place + PAGE, MAP_SHARED | MAP_FIXED);
	CHECK(second == place + PAGE && second[0x104] == 0x55);
	CHECK(!place[0] && !place[5 * PAGE]);
	hint = map(&client, place, MAP_SHARED | MAP_FIXED_NOREPLACE);
	CHECK(hint == MAP_FAILED && errno == EEXIST);
	hint = map(&client, place, MAP_SHARED);
	CHECK(hint != MAP_FAILED && hint[0x104] == 0x55);
	first[1] = 7;
	CHECK(second[1] == 7 && hint[1] == 7);
	/* What the kernel refuses. */
	REFUSED(mmap(NULL, 0, PROT_READ, MAP_SHARED, client.device, offset) ==
				MAP_FAILED
			? -1
			: 0,
		EINVAL);
	REFUSED(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, client.device,
		     offset + 1) == MAP_FAILED
			? -1
			: 0,
		EINVAL);
	REFUSED(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, client.device, 0) ==
				MAP_FAILED
			? -1
			: 0,
		EINVAL); /* region 0 cannot be mapped */
	REFUSED(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, client.container, 0) ==
				MAP_FAILED
			? -1
			: 0,
		ENODEV);
	REFUSED(mmap(place + 1, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED,
		     client.device, offset) == MAP_FAILED
			? -1
			: 0,
		EINVAL);
	/* It is real memory: for a child, for DMA, and after close(). */
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		first[2] = 9;
		_exit(0);
	}
	CHECK(!wait_for(pid) && second[2] == 9);
	CHECK(!map_dma(client.container, first, 1 << 20, SIZE));
	CHECK(!dma_fill(client.device, (1 << 20) + 16, 4, 0x66));
	CHECK(second[16] == 0x66 && hint[19] == 0x66);
	CHECK(!unmap_dma(client.container, 1 << 20, SIZE));
	tear_down(&client);
	CHECK(first[2] == 9);
	CHECK(!munmap(first, SIZE) && !munmap(hint, SIZE));
	puts("ok");
	return 0;
}
