// SPDX-License-Identifier: MIT
/* Threads that look at names of the daemon's, in a program that ThreadSanitizer
 * watches. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void *look(void *argument)
{
	struct stat status;

	for (int i = 0; i < 100; i++) {
		int fd = open("/dev/vfio/vfio", O_RDWR);

		stat("/sys/bus/pci", &status);
		access("/dev/vfio/23", R_OK);
		close(fd);
	}
	return argument;
}

int main(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, look, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	puts("ok");
	return 0;
}
