/* SPDX-License-Identifier: MIT */
/* Containers, groups and devices from open() to close(), and what is refused.
 */
#include "client.h"

#include <sys/sysmacros.h>

static void opening(const char *group)
{
	char path[64];
	int fd, other;
	struct stat status;

	REFUSED(open("/dev/vfio/4711", O_RDWR), ENOENT);
	REFUSED(open("/dev/vfio/vfio", O_RDWR | O_DIRECTORY), ENOTDIR);
	REFUSED(open("/dev/vfio/vfio", O_RDWR | O_CREAT | O_EXCL, 0600),
		EEXIST);
	fd = open("/dev/vfio/vfio", O_RDWR);
	CHECK(fd == 3); /* the lowest, as always */
	CHECK(fcntl(fd, F_GETFD) == 0);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
	other = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	CHECK(other == 4);
	CHECK(fcntl(other, F_GETFD) == FD_CLOEXEC);
	CHECK(!fstat(fd, &status) && S_ISCHR(status.st_mode));
	CHECK(status.st_rdev == makedev(10, 196));
	CHECK(lseek(fd, 0, SEEK_CUR) == -1 && errno == ESPIPE);
	close(fd);
	close(other);
	snprintf(path, sizeof(path), "/dev/vfio/%s", group);
	fd = openat(AT_FDCWD, path, O_RDWR);
	CHECK(fd == 3 && !fstat(fd, &status) && S_ISCHR(status.st_mode));
	CHECK(minor(status.st_rdev) == (unsigned int)atoi(group));
	REFUSED(open(path, O_RDWR), EBUSY); /* a group is opened once */
	close(fd);
	fd = open(path, O_RDWR);
	CHECK(fd == 3); /* close() has taken effect */
	close(fd);
	REFUSED(ioctl(fd, VFIO_GET_API_VERSION), EBADF);
	fd = open("/dev/null", O_RDWR);
	CHECK(fd == 3);
	CHECK(ioctl(fd, VFIO_GET_API_VERSION) == -1 && errno == ENOTTY);
	close(fd);
}

static void arguments(const struct client *client)
{
	struct vfio_device_info info = { .argsz = 8 };
	struct vfio_region_info region = { .argsz = sizeof(region) };
	char *memory = pages(2);
	struct vfio_device_info *last = (void *)(memory + PAGE - sizeof(info));

	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, &info), EINVAL);
	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, NULL), EFAULT);
	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, (void *)-8L),
		EFAULT);
	REFUSED(ioctl(client->device, 0x3bff, &info), ENOTTY);
	/* At the very end of what can be read, and of what can be written. */
	CHECK(!mprotect(memory + PAGE, PAGE, PROT_NONE));
	last->argsz = sizeof(*last);
	CHECK(!ioctl(client->device, VFIO_DEVICE_GET_INFO, last));
	CHECK(last->num_regions == 9);
	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, memory + PAGE - 12),
		EFAULT);
	CHECK(!mprotect(memory, PAGE, PROT_READ));
	REFUSED(ioctl(client->device, VFIO_DEVICE_GET_INFO, last), EFAULT);
	/* The size of a region comes back in place. */
	region.index = VFIO_PCI_CONFIG_REGION_INDEX;
	CHECK(!ioctl(client->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	CHECK(region.size == 256 && region.offset == CONFIG);
	CHECK(!ioctl(client->device, FIOCLEX));
	CHECK(fcntl(client->device, F_GETFD) == FD_CLOEXEC);
	munmap(memory, 2 * PAGE);
}

static void reading(const struct client *client)
{
	char buffer[256], *memory = pages(3);
	struct iovec parts[3] = { { buffer, 1 },
				  { buffer, 0 },
				  { buffer + 1, 3 } };
	uint32_t id;

	CHECK(pread(client->device, &id, 4, CONFIG) == 4);
	CHECK(id == 0x0d1e1d0f);
	CHECK(pread(client->device, buffer, sizeof(buffer), CONFIG) == 256);
	memset(buffer, 0, sizeof(buffer));
	CHECK(preadv(client->device, parts, 3, CONFIG) == 4);
	CHECK(!memcmp(buffer, &id, 4));
	CHECK(preadv2(client->device, parts, 3, CONFIG, 0) == 4);
	REFUSED(preadv2(client->device, parts, 3, CONFIG, RWF_NOWAIT),
		EOPNOTSUPP);
	CHECK(pwritev(client->device, parts, 3, CONFIG) == 4);
	REFUSED(preadv(client->device, parts, -1, CONFIG), EINVAL);
	REFUSED(preadv(client->device, (void *)8, 1, CONFIG), EFAULT);
	REFUSED(pread(client->device, buffer, 4, -1), EINVAL);
	REFUSED(pread(client->device, buffer, 4, 8ull << 40 | 8), EINVAL);
	REFUSED(read(client->container, buffer, 4), EINVAL);
	/* Into memory that ends, and that cannot be written. */
	CHECK(!munmap(memory + PAGE, PAGE));
	CHECK(pread(client->device, memory + PAGE - 4, 4, CONFIG) == 4);
	REFUSED(pread(client->device, memory + PAGE - 2, 4, CONFIG), EFAULT);
	CHECK(!mprotect(memory, PAGE, PROT_READ));
	REFUSED(pread(client->device, memory, 4, CONFIG), EFAULT);
	REFUSED(pwrite(client->device, memory + PAGE, 64, 0), EFAULT);
	munmap(memory, 3 * PAGE);
}

/* Words that are no addresses, and none of them is looked at. */
static void values(const struct client *client)
{
	CHECK(ioctl(client->container, VFIO_CHECK_EXTENSION,
		    VFIO_TYPE1v2_IOMMU) == 1);
	CHECK(ioctl(client->container, VFIO_CHECK_EXTENSION, 4711) == 0);
	REFUSED(ioctl(client->container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU),
		EINVAL);
	CHECK(!ioctl(client->device, VFIO_DEVICE_RESET, 0x1234567));
}

int main(int argc, char **argv)
{
	struct client client;

	(void)argc;
	opening(argv[1]);
	for (int round = 0; round < 2; round++) {
		client = set_up(argv);
		CHECK(fcntl(client.device, F_GETFD) == FD_CLOEXEC);
		arguments(&client);
		reading(&client);
		values(&client);
		REFUSED(mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
			     client.container, 0) == MAP_FAILED
				? -1
				: 0,
			ENODEV);
		tear_down(&client);
	}
	puts("ok");
	return 0;
}
