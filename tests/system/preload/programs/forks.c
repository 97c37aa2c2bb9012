/* SPDX-License-Identifier: MIT */
/* Forks, and closes everything, while a thread waits for its first connection:
 * a child has none of it, and the thread gets it. */
#include "client.h"

#include <dirent.h>
#include <limits.h>

static void *opens(void *argument)
{
	CHECK(open("/dev/vfio/vfio", O_RDWR) >= 0);
	return argument;
}

static int count_high(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	CHECK(folder);
	for (struct dirent *entry; (entry = readdir(folder));)
		count += atoi(entry->d_name) >= 256;
	closedir(folder);
	return count;
}

int main(void)
{
	pthread_t thread;
	int before = count_high();
	pid_t pid;

	CHECK(!pthread_create(&thread, NULL, opens, NULL));
	usleep(200000); /* the daemon takes its time over a greeting */
	CHECK(count_high() == before + 1);
	pid = fork();
	if (!pid)
		_exit(count_high() == before ? 3 : 1);
	CHECK(wait_for(pid) == 3);
	CHECK(!close_range(3, ~0u, 0));
	CHECK(count_high() == 1);
	CHECK(!pthread_join(thread, NULL));
	puts("ok");
	return 0;
}
