/* SPDX-License-Identifier: MIT */
/* More threads than there can be connections, each with a call of its own. */
#include "client.h"

#define THREADS 100
#define CALLS	30

static struct client client;

static void *work(void *argument)
{
	long number = (long)argument;
	int own = open("/dev/vfio/vfio", O_RDWR);

	CHECK(own >= 0);
	for (int i = 0; i < CALLS; i++) {
		struct vfio_region_info region = {
			.argsz = sizeof(region),
			.index = VFIO_PCI_CONFIG_REGION_INDEX,
		};
		uint32_t id = 0;
		char buffer[256];

		errno = 77;
		CHECK(pread(client.device, &id, 4, CONFIG) == 4);
		CHECK(id == 0x0d1e1d0f);
		CHECK(!ioctl(client.device, VFIO_DEVICE_GET_REGION_INFO,
			     &region));
		CHECK(region.size == 256);
		CHECK(errno == 77); /* success does not touch it */
		errno = 0;
		CHECK(ioctl(own, VFIO_IOMMU_GET_INFO, buffer) == -1);
		CHECK(errno == EINVAL);
		CHECK(pread(client.device, buffer,
			    (size_t)(number + i) % 256 + 1,
			    CONFIG) == (number + i) % 256 + 1);
		int copy = dup(client.container);
		CHECK(is_container(copy));
		CHECK(!close(copy));
	}
	CHECK(!close(own));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	(void)argc;
	client = set_up(argv);
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, work, (void *)i));
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	tear_down(&client);
	puts("ok");
	return 0;
}
