/* SPDX-License-Identifier: MIT */
/* Built with -D_FORTIFY_SOURCE=2: libc's checking functions are called. */
#include "client.h"

static void overflow(const struct client *client, volatile size_t size)
{
	char small[8];

	if (!fork()) {
		/* The message of libc is not wanted. */
		close(2);
		(void)!pread(client->device, small, size, (off_t)CONFIG);
		_exit(0);
	}
	int status;
	CHECK(wait(&status) > 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);
	volatile int flags = O_RDWR;
	volatile size_t size = 4;
	char buffer[16] = "";
	int fd = open("/dev/vfio/vfio", flags);

	(void)argc;
	CHECK(is_container(fd));
	close(fd);
	fd = openat(AT_FDCWD, "/dev/vfio/vfio", flags);
	CHECK(is_container(fd));
	close(fd);
	CHECK(pread(client.device, buffer, size, (off_t)CONFIG) == 4);
	CHECK(!memcmp(buffer, "\x0f\x1d\x1e\x0d", 4));
	REFUSED(read(client.container, buffer, size), EINVAL);
	fd = open("/dev/zero", flags);
	CHECK(read(fd, buffer, size) == 4);
	close(fd);
	overflow(&client, size * 8);
	tear_down(&client);
	puts("ok");
	return 0;
}
