/* SPDX-License-Identifier: MIT */
/* Makes calls for as long as it is told to by stdin, a line for each:
 *
 *   call    one of each kind; prints what became of them
 *   loop    calls until one fails, printing "looping" after the first
 */
#include "client.h"

static struct client client;
static unsigned char *memory;

static void report(const char *what, long result)
{
	printf("%s %ld %d\n", what, result, result < 0 ? errno : 0);
	fflush(stdout);
}

static void call(void)
{
	struct pollfd poll_fd = { client.device, 0, 0 };
	uint32_t id = 0;
	void *region;
	int fd;

	report("ioctl", ioctl(client.container, VFIO_CHECK_EXTENSION, 3));
	report("pread", pread(client.device, &id, 4, CONFIG));
	report("pwrite", pwrite(client.device, &id, 4, CONFIG));
	region = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, client.device,
		      2ll << 40);
	report("mmap", region == MAP_FAILED ? -1 : 0);
	report("map", map_dma(client.container, memory, 0, PAGE));
	fd = open("/dev/vfio/vfio", O_RDWR);
	report("open", fd < 0 ? -1 : 0);
	if (fd >= 0)
		close(fd);
	CHECK(poll(&poll_fd, 1, 0) >= 0);
	report("poll", poll_fd.revents & POLLHUP ? 1 : 0);
	unmap_dma(client.container, 0, PAGE);
}

static void loop(void)
{
	uint32_t id = 0;
	long calls = 0;

	while (pread(client.device, &id, 4, CONFIG) == 4) {
		CHECK(id == 0x0d1e1d0f);
		if (!calls++)
			report("looping", 0);
	}
	report("pread", -1);
}

int main(int argc, char **argv)
{
	char line[64];

	(void)argc;
	client = set_up(argv);
	memory = pages(1);
	report("ready", 0);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "call", 4))
			call();
		else if (!strncmp(line, "loop", 4))
			loop();
		else
			return 9;
		report("done", 0);
	}
	tear_down(&client);
	return 0;
}
