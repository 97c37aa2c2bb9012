/* SPDX-License-Identifier: MIT */
/* Migration v2: states, and data fds with read, write and poll. */
#include "client.h"

#include <sys/sendfile.h>

/* Of Linux 6.2, which older headers lack. */
#ifndef VFIO_MIG_GET_PRECOPY_INFO
#define VFIO_DEVICE_STATE_PRE_COPY 6
#define VFIO_MIG_GET_PRECOPY_INFO  _IO(VFIO_TYPE, VFIO_BASE + 21)
struct vfio_precopy_info {
	uint32_t argsz, flags;
	uint64_t initial_bytes, dirty_bytes;
};
#endif

static int set_state(int device, uint32_t state)
{
	struct {
		struct vfio_device_feature head;
		struct vfio_device_feature_mig_state state;
	} feature = { { sizeof(feature),
			VFIO_DEVICE_FEATURE_SET |
				VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE },
		      { state, -7 } };

	CHECK(!ioctl(device, VFIO_DEVICE_FEATURE, &feature));
	return feature.state.data_fd;
}

static short ready(int fd, short events)
{
	struct pollfd poll_fd = { fd, events, 0 };

	CHECK(poll(&poll_fd, 1, 0) >= 0);
	return poll_fd.revents;
}

static ssize_t read_all(int fd, unsigned char *data, size_t room)
{
	size_t done = 0;
	ssize_t size;

	while ((size = read(fd, data + done, room - done)) > 0)
		done += (size_t)size;
	return size < 0 ? -errno : (ssize_t)done;
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);
	static unsigned char stream[1 << 20], rest[1 << 20];
	struct vfio_precopy_info info = { .argsz = sizeof(info) };
	struct stat status;
	ssize_t size, more;
	int fd, end;

	(void)argc;
	/* 300 KiB at the end, 70000 bytes at once, 5 while it runs. */
	CHECK(!command(client.device, 8, 300 << 10, 70000, 5, 0));
	fd = set_state(client.device, VFIO_DEVICE_STATE_PRE_COPY);
	CHECK(fd > client.device);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(!fstat(fd, &status) && !S_ISREG(status.st_mode));
	CHECK(ready(fd, POLLIN) == POLLIN);
	CHECK(!ioctl(fd, VFIO_MIG_GET_PRECOPY_INFO, &info));
	CHECK(info.initial_bytes == 70000);
	REFUSED(ioctl(fd, VFIO_CHECK_EXTENSION, 3), ENOTTY);
	CHECK(read(fd, stream, 10) == 10);
	size = 10;
	/* Through a copy, with a vector: it is one stream. */
	end = dup(fd);
	struct iovec parts[2] = { { stream + size, 3 },
				  { stream + size + 3, 66000 } };
	more = readv(end, parts, 2);
	CHECK(more > 3);
	size += more;
	close(end);
	while ((more = read(fd, stream + size, sizeof(stream) - (size_t)size)) >
	       0)
		size += more;
	CHECK(more == -1 && errno == ENOMSG); /* nothing now, but later */
	CHECK(size >= 70000);
	REFUSED(read(fd, stream + size, 1), ENOMSG);
	REFUSED(pread(fd, stream, 1, 0), ESPIPE);
	REFUSED(sendfile(fd, fd, &(off_t){ 0 }, 1), ESPIPE);
	REFUSED(sendfile(1, fd, NULL, 1), EINVAL);
	REFUSED(write(fd, "x", 1), EBADF);
	/* The rest comes on the same fd. */
	CHECK(set_state(client.device, VFIO_DEVICE_STATE_STOP_COPY) == -1);
	CHECK(ready(fd, POLLIN) == POLLIN);
	more = read_all(fd, stream + size, sizeof(stream) - (size_t)size);
	CHECK(more >= 300 << 10);
	size += more;
	CHECK(read(fd, stream, 1) == 0);
	CHECK(set_state(client.device, VFIO_DEVICE_STATE_STOP) == -1);
	REFUSED(read(fd, rest, 1), ENODEV);
	close(fd);

	fd = set_state(client.device, VFIO_DEVICE_STATE_STOP_COPY);
	CHECK(fd > 0);
	more = read_all(fd, rest, sizeof(rest));
	CHECK(more > 0);
	CHECK(set_state(client.device, VFIO_DEVICE_STATE_STOP) == -1);
	close(fd);

	fd = set_state(client.device, VFIO_DEVICE_STATE_RESUMING);
	CHECK(fd > 0);
	CHECK(ready(fd, POLLOUT) == POLLOUT);
	REFUSED(read(fd, rest, 1), EBADF);
	for (ssize_t at = 0; at < more;) {
		size_t left = (size_t)(more - at);
		ssize_t part = write(fd, rest + at, left < 9999 ? left : 9999);

		CHECK(part > 0);
		at += part;
	}
	close(fd);
	CHECK(set_state(client.device, VFIO_DEVICE_STATE_RUNNING) == -1);
	tear_down(&client);
	puts("ok");
	return 0;
}
