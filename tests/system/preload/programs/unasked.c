/* SPDX-License-Identifier: MIT */
/* Gets fds with replies in which none belongs: none may be the program's. */
#include "client.h"

static int count_fds(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

int main(void)
{
	int token = open("/dev/vfio/vfio", O_RDWR), before = count_fds();
	char data[256] = { 0 };

	CHECK(token >= 0);
	for (int i = 0; i < 32; i++) {
		REFUSED(ioctl(token, VFIO_GET_API_VERSION), EIO);
		REFUSED(ioctl(token, VFIO_DEVICE_RESET), EIO);
		REFUSED(pread(token, data, sizeof(data), 0), EIO);
		REFUSED(pwrite(token, data, sizeof(data), 0), EIO);
		REFUSED(open("/dev/vfio/12", O_RDWR), ENODEV);
		CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, token, 0) ==
		      MAP_FAILED);
		CHECK(errno == EIO);
		CHECK(count_fds() == before);
	}
	puts("ok");
	return 0;
}
