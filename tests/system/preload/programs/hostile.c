/* SPDX-License-Identifier: MIT */
/* Makes calls to a daemon that answers anything: none may do more than fail.
 *
 *   hostile CALLS
 */
#include "client.h"

#define ROOM 256

static struct {
	unsigned char before[4096], data[ROOM], after[70000];
} memory;

static void check_around(void)
{
	for (size_t i = 0; i < sizeof(memory.before); i++)
		CHECK(memory.before[i] == 0x5c);
	for (size_t i = 0; i < sizeof(memory.after); i++)
		CHECK(memory.after[i] == 0x5c);
}

int main(int argc, char **argv)
{
	long calls = argc > 1 ? atol(argv[1]) : 0;
	int null = open("/dev/null", O_RDWR), pair[2], token = -1, fd;
	uint32_t argsz = ROOM;
	void *mapped;
	char byte = 0;

	CHECK(calls > 0 && null == 3);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	memset(&memory, 0x5c, sizeof(memory));
	for (long i = 0; i < calls; i++) {
		if (token < 0)
			token = open("/dev/vfio/vfio", O_RDWR);
		switch (i % 7) {
		case 0:
			(void)!pread(token, memory.data, ROOM, i);
			break;
		case 1:
			memcpy(memory.data, &argsz, sizeof(argsz));
			ioctl(token, VFIO_IOMMU_GET_INFO, memory.data);
			break;
		case 2:
			(void)!pwrite(token, memory.data, ROOM, i);
			break;
		case 3:
			mapped = mmap(NULL, 65536, PROT_READ, MAP_SHARED, token,
				      0);
			if (mapped != MAP_FAILED)
				munmap(mapped, 65536);
			break;
		case 4:
			(void)!read(token, memory.data, 1);
			break;
		case 5:
			fd = open("/dev/vfio/12", O_RDWR);
			if (fd >= 0)
				close(fd);
			break;
		default:
			if (map_dma(token, memory.data, 0, ROOM))
				break;
			close(token);
			token = -1;
		}
		check_around();
		/* What is ours is as it was. */
		CHECK(write(null, &byte, 1) == 1);
		CHECK(write(pair[0], &byte, 1) == 1);
		CHECK(read(pair[1], &byte, 1) == 1 && !byte);
		/* Files that it gave us and that we do not want. */
		if (i % 64 == 63)
			close_range(10, ~0u, 0);
	}
	puts("ok");
	return 0;
}
