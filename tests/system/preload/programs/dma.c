/* SPDX-License-Identifier: MIT */
/* DMA into every kind of memory, and memory that changes under a mapping. */
#include "client.h"

#include <linux/falloc.h>

#define NPAGES 64
#define IOVA   (1024 * PAGE)

/* The device writes each byte, and reads what we wrote. */
static void both_ways(const struct client *client, unsigned char *memory,
		      size_t size)
{
	CHECK(!dma_fill(client->device, IOVA, size < 65536 ? size : 65536,
			0xa5));
	CHECK(memory[0] == 0xa5 && memory[4095] == 0xa5);
	memory[100] = 0x17;
	CHECK(dma_byte(client->device, IOVA + 100) == 0x17);
	CHECK(!dma_fill(client->device, IOVA + size - 3, 3, 0x44));
	CHECK(memory[size - 1] == 0x44 && memory[size - 3] == 0x44);
	REFUSED((int)(errno = 0, dma_fill(client->device, IOVA + size, 1, 1) < 0
					 ? (errno = EINVAL, -1)
					 : 0),
		EINVAL);
}

static void map_and_use(const struct client *client, unsigned char *memory,
			size_t size)
{
	CHECK(!map_dma(client->container, memory, IOVA, size));
	REFUSED(map_dma(client->container, memory, IOVA, PAGE), EEXIST);
	both_ways(client, memory, size);
	CHECK(!unmap_dma(client->container, IOVA, size));
}

static unsigned char *map_file(int fd, size_t size, int flags)
{
	unsigned char *memory =
		mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

static int sized(int fd, size_t size)
{
	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, (off_t)size));
	return fd;
}

static void kinds(const struct client *client, const char *folder)
{
	size_t size = NPAGES * PAGE;
	char path[4096];
	int fd;
	unsigned char *memory;

	map_and_use(client, pages(NPAGES), size);

	fd = sized(memfd_create("unsealed", MFD_CLOEXEC), size);
	memory = map_file(fd, size, MAP_SHARED);
	map_and_use(client, memory, size);
	CHECK(!munmap(memory, size));
	close(fd);

	fd = sized(memfd_create("sealed", MFD_ALLOW_SEALING), size);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	memory = map_file(fd, size, MAP_SHARED);
	map_and_use(client, memory, size);
	/* A private view of the same file is other memory. */
	unsigned char *private = map_file(fd, size, MAP_PRIVATE);
	memory[0] = 1;
	map_and_use(client, private, size);
	CHECK(memory[0] == 1 && private[0] == 0xa5);
	CHECK(!munmap(private, size) && !munmap(memory, size));
	close(fd);

	snprintf(path, sizeof(path), "%s/memory", folder);
	fd = sized(open(path, O_RDWR | O_CREAT, 0600), size);
	memory = map_file(fd, size, MAP_SHARED);
	map_and_use(client, memory, size);
	/* Whoever reads the file sees what the device wrote. */
	unsigned char byte;
	CHECK(pread(fd, &byte, 1, 1) == 1 && byte == 0xa5);
	CHECK(!munmap(memory, size));
	close(fd);

	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	map_and_use(client, memory, size);
}

/*
 * vfio_dma_rw() goes to an address: to what is there now, if the process may do
 * it there itself. The memory that was there when it was mapped does not
 * matter.
 */
static void by_address(const struct client *client)
{
	int fd = sized(memfd_create("first", MFD_ALLOW_SEALING), 4 * PAGE);
	unsigned char *memory, *file;

	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	memory = map_file(fd, 4 * PAGE, MAP_SHARED);
	file = map_file(fd, 4 * PAGE, MAP_SHARED);
	CHECK(!map_dma(client->container, memory, IOVA, 4 * PAGE));
	CHECK(!dma_fill(client->device, IOVA, 1, 0x21) && file[0] == 0x21);
	CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
	CHECK(!dma_fill(client->device, IOVA, 1, 0x22));
	CHECK(memory[0] == 0x22 && file[0] == 0x21);
	CHECK(!mprotect(memory + PAGE, PAGE, PROT_READ));
	CHECK(dma_fill(client->device, IOVA + PAGE, 1, 0x23) == -EFAULT);
	CHECK(!munmap(memory + 2 * PAGE, PAGE));
	CHECK(dma_fill(client->device, IOVA + 2 * PAGE, 1, 0x24) == -EFAULT);
	CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 3 * PAGE, PAGE));
	CHECK(!dma_fill(client->device, IOVA + 3 * PAGE, 1, 0x25));
	CHECK(file[3 * PAGE] == 0x25);
	CHECK(!unmap_dma(client->container, IOVA, 4 * PAGE));
	CHECK(!munmap(memory, 4 * PAGE) && !munmap(file, 4 * PAGE));
	close(fd);
}

/* Pins keep what was there; a device that comes later finds what is there. */
static void replaced(const struct client *client)
{
	size_t size = 8 * PAGE;
	int fd = sized(memfd_create("first", MFD_ALLOW_SEALING), size);
	unsigned char *memory, *again;

	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	memory = map_file(fd, size, MAP_SHARED);
	map_and_use(client, memory, size);
	/* Unmapped, and something else in its place. */
	CHECK(!munmap(memory, size));
	again = mmap(memory, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(again == memory);
	map_and_use(client, again, size);
	memory = map_file(fd, size, MAP_SHARED);
	CHECK(memory[0] == 0xa5); /* of the first time */
	memory[0] = 0x11;
	/* Covered, without munmap(). */
	map_and_use(client, memory, size);
	CHECK(memory[0] == 0xa5);
	CHECK(mmap(memory, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
	map_and_use(client, memory, size);
	CHECK(!munmap(memory, size));
	/* Moved. */
	memory = map_file(fd, size, MAP_SHARED);
	map_and_use(client, memory, size);
	again = mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       pages(8));
	CHECK(again != MAP_FAILED);
	REFUSED((int)(!map_dma(client->container, memory, IOVA, size)
			      ? dma_fill(client->device, IOVA, 1, 1) < 0
					? (errno = EFAULT, -1)
					: 0
			      : -1),
		EFAULT);
	CHECK(!unmap_dma(client->container, IOVA, size));
	map_and_use(client, again, size);
	/* Protected. */
	CHECK(!mprotect(again, PAGE, PROT_READ));
	CHECK(!map_dma(client->container, again, IOVA, size));
	CHECK(command(client->device, 1, IOVA, 1, 3, 0) == -EFAULT);
	CHECK(command(client->device, 1, IOVA + PAGE, 1, 3, 0) == 1);
	CHECK(command(client->device, 2, IOVA + PAGE, 1, 0, 0) == 1);
	CHECK(!unmap_dma(client->container, IOVA, size));
	CHECK(!mprotect(again, PAGE, PROT_READ | PROT_WRITE));
	map_and_use(client, again, size);
	close(fd);
}

/* Many windows, in parts, growing and overlapping. */
static void parts(const struct client *client)
{
	size_t size = 32 * PAGE;
	int fd = sized(memfd_create("parts", MFD_ALLOW_SEALING), size);
	unsigned char *memory;

	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	memory = map_file(fd, size, MAP_SHARED);
	for (size_t at = 0; at < size; at += PAGE)
		CHECK(!map_dma(client->container, memory + at, IOVA + at,
			       PAGE));
	for (size_t at = 0; at < size; at += PAGE) {
		CHECK(!dma_fill(client->device, IOVA + at, 1,
				(int)(at / PAGE)));
		CHECK(memory[at] == at / PAGE);
	}
	CHECK(!munmap(memory + 4 * PAGE, PAGE));
	CHECK(!dma_fill(client->device, IOVA + 5 * PAGE, 1, 99));
	CHECK(memory[5 * PAGE] == 99);
	CHECK(!unmap_dma(client->container, IOVA, size));
	CHECK(!map_dma(client->container, memory, IOVA, size));
	CHECK(!dma_fill(client->device, IOVA + 3 * PAGE, 1, 98));
	CHECK(memory[3 * PAGE] == 98);
	CHECK(!dma_fill(client->device, IOVA + 6 * PAGE, 1, 97));
	CHECK(memory[6 * PAGE] == 97);
	CHECK(dma_fill(client->device, IOVA + 4 * PAGE, 1, 1) < 0);
	CHECK(!unmap_dma(client->container, IOVA, size));
	close(fd);
}

/* What a device has written is reported, to memory of any kind. */
static void dirty(const struct client *client)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap head;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} ask = { { sizeof(ask), VFIO_IOMMU_DIRTY_PAGES_FLAG_START },
		  { IOVA, 0, { PAGE, 0, NULL } } };
	/* More bits than fit one message, at an odd place. */
	size_t npages = 1 << 20;
	unsigned char *memory =
		mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *bitmap = pages(40);

	CHECK(memory != MAP_FAILED);
	CHECK(!map_dma(client->container, memory, IOVA, npages * PAGE));
	CHECK(!ioctl(client->container, VFIO_IOMMU_DIRTY_PAGES, &ask));
	CHECK(!dma_fill(client->device, IOVA + 7 * PAGE, 1, 1));
	CHECK(!dma_fill(client->device, IOVA + (npages - 1) * PAGE, 1, 1));
	ask.head.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
	ask.get.size = npages * PAGE;
	ask.get.bitmap.size = npages / 8;
	ask.get.bitmap.data = (void *)(bitmap + 8);
	CHECK(!ioctl(client->container, VFIO_IOMMU_DIRTY_PAGES, &ask));
	CHECK((unsigned char)bitmap[8] == 0x80);
	CHECK((unsigned char)bitmap[8 + npages / 8 - 1] == 0x80);
	CHECK(!bitmap[9] && !bitmap[8 + npages / 8]);
	/* Half of it cannot be written. */
	CHECK(!mprotect(bitmap + 16 * PAGE, PAGE, PROT_READ));
	REFUSED(ioctl(client->container, VFIO_IOMMU_DIRTY_PAGES, &ask), EFAULT);
	ask.head.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
	CHECK(!ioctl(client->container, VFIO_IOMMU_DIRTY_PAGES, &ask));
	CHECK(!unmap_dma(client->container, IOVA, npages * PAGE));
	munmap(memory, npages * PAGE);
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);

	CHECK(argc > 3);
	kinds(&client, argv[3]);
	by_address(&client);
	replaced(&client);
	parts(&client);
	dirty(&client);
	tear_down(&client);
	puts("ok");
	return 0;
}
