/* SPDX-License-Identifier: MIT */
/* Signals all the time, whose handler makes calls itself. */
#include "client.h"

#include <stdatomic.h>
#include <sys/time.h>

static struct client client;
static atomic_int caught;

static void handle(int number)
{
	uint32_t id = 0;
	struct itimerval never = { 0 };
	int saved = errno;

	(void)number;
	/* A slow machine would do nothing else. */
	if (++caught == 3000)
		CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	CHECK(pread(client.device, &id, 4, CONFIG) == 4);
	CHECK(id == 0x0d1e1d0f);
	CHECK(is_container(client.container));
	errno = saved;
}

static void *interrupt(void *argument)
{
	pthread_t thread = *(pthread_t *)argument;

	while (caught < 300)
		pthread_kill(thread, SIGUSR1);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handle }; /* no SA_RESTART */
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { 0 };
	pthread_t self = pthread_self(), other;
	unsigned char *memory = pages(16);
	int calls = 0;
	sigset_t mask;

	(void)argc;
	client = set_up(argv);
	CHECK(!map_dma(client.container, memory, PAGE, 16 * PAGE));
	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!sigaction(SIGUSR1, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	CHECK(!pthread_create(&other, NULL, interrupt, &self));
	while (caught < 300 || calls < 200) {
		struct vfio_device_info info = { .argsz = sizeof(info) };
		char buffer[256];
		int fd = open("/dev/vfio/vfio", O_RDWR);

		CHECK(fd >= 0);
		CHECK(!ioctl(client.device, VFIO_DEVICE_GET_INFO, &info));
		CHECK(pread(client.device, buffer, 256, CONFIG) == 256);
		CHECK(!dma_fill(client.device, PAGE, 16 * PAGE, calls & 255));
		CHECK(memory[16 * PAGE - 1] == (calls & 255));
		CHECK(!close(fd));
		calls++;
	}
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	CHECK(!pthread_join(other, NULL));
	/* Nothing is left blocked. */
	CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &mask));
	CHECK(!sigismember(&mask, SIGALRM) && !sigismember(&mask, SIGUSR1));
	/* Every thread of the process has to agree to this. */
	CHECK(!setgid(getgid()) && !setuid(getuid()));
	CHECK(is_device(client.device));
	tear_down(&client);
	puts("ok");
	return 0;
}
