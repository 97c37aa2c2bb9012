/* SPDX-License-Identifier: MIT */
/* Every way to copy an fd, and programs that close everything. */
#include "client.h"

#include <dirent.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>

int pidfd_getfd(int pidfd, int fd, unsigned int flags) __attribute__((weak));

/* A device comes to a number that is known to be of an ordinary file, and was
 * closed in a way that nobody notices. */
static void fetched(const struct client *client, int null)
{
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	CHECK(self >= 0 && write(null, "x", 1) == 1);
	FILE *file = fdopen(null, "w");
	CHECK(file && !fclose(file));
	int fd = pidfd_getfd ? pidfd_getfd(self, client->device, 0)
			     : (int)syscall(SYS_pidfd_getfd, self,
					    client->device, 0);
	CHECK(fd == null && is_device(fd));
	close(fd);
	close(self);
}

static void copies(const struct client *client)
{
	int fd = dup(client->device);
	int far = fcntl(client->device, F_DUPFD_CLOEXEC, 100);

	CHECK(is_device(fd));
	CHECK(far == 100 && is_device(far));
	CHECK(fcntl(far, F_GETFD) == FD_CLOEXEC);
	CHECK(dup2(client->device, 50) == 50 && is_device(50));
	CHECK(dup2(client->container, 50) == 50 && is_container(50));
	CHECK(dup3(client->device, 50, O_CLOEXEC) == 50 && is_device(50));
	CHECK(dup2(50, 50) == 50);
	REFUSED(dup3(50, 50, 0), EINVAL);
	REFUSED(dup2(999, 50), EBADF);
	REFUSED(dup2(999, 999), EBADF);
	CHECK(is_device(50));
	/* An ordinary file comes to be where a device was, and back. */
	int null = open("/dev/null", O_RDWR);
	char byte = 0;
	CHECK(dup2(null, 50) == 50 && write(50, &byte, 1) == 1);
	CHECK(ioctl(50, VFIO_DEVICE_RESET) == -1 && errno == ENOTTY);
	CHECK(dup2(client->device, 50) == 50 && is_device(50));
	close(50);
	REFUSED(ioctl(50, VFIO_DEVICE_RESET), EBADF);
	close(fd);
	fetched(client, null);
	close(far);
	CHECK(is_device(client->device));
}

static int count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	CHECK(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* Numbers that nobody has opened are not open, whatever is there. */
static void stray(void)
{
	for (int fd = 900; fd < 1100; fd++) {
		struct stat status;
		char byte;

		REFUSED((int)read(fd, &byte, 1), EBADF);
		REFUSED((int)write(fd, &byte, 1), EBADF);
		REFUSED(ioctl(fd, VFIO_GET_API_VERSION), EBADF);
		REFUSED(fstat(fd, &status), EBADF);
		REFUSED(fcntl(fd, F_GETFD), EBADF);
		REFUSED(dup(fd), EBADF);
		REFUSED(close(fd), EBADF);
	}
}

/* What daemons do when they start. */
static void close_all(int first)
{
	for (int fd = first; fd < 4096; fd++)
		close(fd);
}

static void onto(const struct client *client, int first, int last)
{
	/* Wherever the library keeps what it needs: we want it all. */
	for (int fd = first; fd < last; fd++) {
		int result = dup2(client->container, fd);

		CHECK(result == fd || (result == -1 && errno == EBUSY));
	}
	CHECK(is_device(client->device));
	for (int fd = first; fd < last; fd++)
		close(fd);
	CHECK(is_device(client->device));
}

/* None of these numbers is open, whatever the kernel says. */
static void hidden(void)
{
	for (int fd = 800; fd < 1100; fd++) {
		struct stat status;

		REFUSED(fstat(fd, &status), EBADF);
		REFUSED(fstatat(fd, "", &status, AT_EMPTY_PATH), EBADF);
		REFUSED(fcntl(fd, F_GETFD), EBADF);
		REFUSED(ioctl(fd, VFIO_GET_API_VERSION), EBADF);
	}
}

/* A dup2() that fails leaves nothing open that was not. */
static void nothing_onto(const struct client *client)
{
	for (int fd = 800; fd < 1050; fd++)
		REFUSED(dup2(799, fd), EBADF);
	hidden();
	CHECK(is_device(client->device));
}

/* A child that shares our memory, but not our fds, has other files there. */
static void onto_in_child(const struct client *client)
{
	int status;
	pid_t pid = vfork();

	if (!pid) {
		for (int fd = 800; fd < 1020; fd++)
			if (dup2(client->device, fd) != fd)
				_exit(1);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	hidden();
	CHECK(is_device(client->device));
}

static int first_from(int low)
{
	DIR *folder = opendir("/proc/self/fd");
	int first = INT_MAX;

	CHECK(folder);
	for (struct dirent *entry; (entry = readdir(folder));) {
		int fd = atoi(entry->d_name);

		if (fd >= low && fd < first)
			first = fd;
	}
	closedir(folder);
	return first;
}

static void *close_own(void *argument)
{
	CHECK(!close_range(*(unsigned int *)argument, ~0u,
			   CLOSE_RANGE_UNSHARE));
	return NULL;
}

/* A thread closes everything, in an fd table of its own. */
static void apart(void)
{
	unsigned int first = (unsigned int)first_from(256);
	int kept = fcntl(0, F_DUPFD_CLOEXEC, 1200);
	pthread_t thread;

	CHECK(kept >= 0);
	CHECK(!pthread_create(&thread, NULL, close_own, &first));
	CHECK(!pthread_join(thread, NULL));
	CHECK(fcntl(kept, F_GETFD) == FD_CLOEXEC);
	CHECK(!close(kept));
}

static pthread_barrier_t barrier;

/* Ordinary files at all numbers that the other table may have hidden ones at.
 */
static void many_files(void)
{
	int files[1000], count = 0;

	while (count < 1000 && (files[count] = open("/dev/null", O_RDWR)) >= 0)
		count++;
	for (int i = 0; i < count; i++)
		CHECK(write(files[i], "x", 1) == 1 &&
		      fcntl(files[i], F_GETFD) == 0);
	while (count)
		CHECK(!close(files[--count]));
}

/* An fd table of its own, since before anything was opened. */
static void *other_table(void *argument)
{
	CHECK(!unshare(CLONE_FILES));
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	many_files();
	int container = open("/dev/vfio/vfio", O_RDWR);
	for (int i = 0; i < 200; i++) {
		pthread_barrier_wait(&barrier);
		CHECK(is_container(container));
		pthread_barrier_wait(&barrier);
	}
	CHECK(!close(container));
	return argument;
}

/* Two threads take turns, none of which can use what the other has made. */
static void two_tables(void)
{
	pthread_t thread;

	CHECK(!pthread_barrier_init(&barrier, NULL, 2));
	CHECK(!pthread_create(&thread, NULL, other_table, NULL));
	pthread_barrier_wait(&barrier);
	int container = open("/dev/vfio/vfio", O_RDWR), before = count_fds();
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 200; i++) {
		CHECK(is_container(container));
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	CHECK(!pthread_join(thread, NULL));
	CHECK(count_fds() <= before);
	CHECK(!close(container));
}

static void everything(const struct client *client)
{
	int before = count_fds();

	CHECK(is_device(client->device));
	stray();
	onto_in_child(client);
	nothing_onto(client);
	close_all(10);
	CHECK(is_device(client->device));
	CHECK(!close_range(10, ~0u, 0));
	CHECK(is_device(client->device));
	closefrom(10);
	CHECK(is_device(client->device));
	CHECK(!close_range(10, ~0u, CLOSE_RANGE_CLOEXEC));
	CHECK(is_device(client->device));
	CHECK(!close_range(10, ~0u, CLOSE_RANGE_UNSHARE));
	CHECK(is_device(client->device));
	REFUSED(close_range(5, 4, 0), EINVAL);
	onto(client, 800, 1024);
	hidden();
	apart();
	CHECK(count_fds() <= before);
}

int main(int argc, char **argv)
{
	(void)argc;
	if (argv[3]) {
		two_tables();
		puts("ok");
		return 0;
	}
	struct client client = set_up(argv);
	copies(&client);
	everything(&client);
	tear_down(&client);
	/* And from the beginning, with nothing left. */
	close_all(3);
	client = set_up(argv);
	copies(&client);
	tear_down(&client);
	puts("ok");
	return 0;
}
