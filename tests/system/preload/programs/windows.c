/* SPDX-License-Identifier: MIT */
/* While one half of a shared mapping is mapped for DMA, and so all of it is
 * shared with the daemon, another thread replaces the other half: DMA to that
 * has to find what is there now. */
#include "client.h"

#define HALF (16 * PAGE)

static char *memory;
static int file, delay;
static pthread_barrier_t barrier;

static void *replace(void *argument)
{
	(void)argument;
	pthread_barrier_wait(&barrier);
	usleep((unsigned int)delay);
	CHECK(!munmap(memory + HALF, HALF));
	CHECK(mmap(memory + HALF, HALF, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		   0) == memory + HALF);
	return NULL;
}

static void once(const struct client *client)
{
	pthread_t thread;

	memory = mmap(NULL, 2 * HALF, PROT_READ | PROT_WRITE, MAP_SHARED, file,
		      0);
	CHECK(memory != MAP_FAILED);
	CHECK(!pthread_create(&thread, NULL, replace, NULL));
	pthread_barrier_wait(&barrier);
	CHECK(!map_dma(client->container, memory, 0, HALF));
	CHECK(!pthread_join(thread, NULL));
	CHECK(!map_dma(client->container, memory + HALF, HALF, HALF));
	CHECK(!dma_fill(client->device, 0, PAGE, 0x5a));
	CHECK(!dma_fill(client->device, HALF - PAGE, PAGE, 0x5a));
	CHECK(!dma_fill(client->device, HALF, PAGE, 0x5a));
	CHECK(!dma_fill(client->device, 2 * HALF - PAGE, PAGE, 0x5a));
	CHECK(memory[0] == 0x5a && memory[HALF - 1] == 0x5a);
	CHECK(memory[HALF] == 0x5a && memory[2 * HALF - 1] == 0x5a);
	CHECK(!unmap_dma(client->container, 0, 2 * HALF));
	CHECK(!munmap(memory, 2 * HALF));
}

int main(int argc, char **argv)
{
	struct client client = set_up(argv);

	(void)argc;
	file = memfd_create("windows", MFD_ALLOW_SEALING);
	CHECK(file >= 0 && !ftruncate(file, 2 * HALF));
	CHECK(!fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK));
	CHECK(!pthread_barrier_init(&barrier, NULL, 2));
	for (int i = 0; i < 60; i++) {
		delay = i * 20;
		once(&client);
	}
	tear_down(&client);
	puts("ok");
	return 0;
}
