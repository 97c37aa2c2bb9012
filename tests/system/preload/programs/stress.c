/* SPDX-License-Identifier: MIT */
/**
 * Threads and forked children that open, copy, use, map and close emulated and
 * ordinary files at random. Each knows what its fds are, and looks that every
 * call reaches the file that it means; the numbers are reused all the time, by
 * other threads and for other files.
 *
 *   stress GROUP DEVICE SECONDS SEED
 *
 * The device is one whose region 2 can be mapped.
 */
#include "client.h"

#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>

#define THREADS	 16
#define CHILDREN 4
#define FDS	 12
#define SIZE	 0x4000

enum kind { NOTHING, CONTAINER, DEVICE, NUL, MEMORY, EVENT, KINDS };

static struct client client;
static off_t region;
static atomic_bool done;
static atomic_ulong steps;

struct worker {
	uint64_t random;
	enum kind kinds[FDS];
	int fds[FDS];
	int pair[2];
};

static unsigned int any(struct worker *worker, unsigned int below)
{
	worker->random ^= worker->random << 13;
	worker->random ^= worker->random >> 7;
	worker->random ^= worker->random << 17;
	return (unsigned int)(worker->random >> 20) % below;
}

static void use(enum kind kind, int fd, uint64_t number)
{
	uint64_t value = number;
	uint32_t id = 0;
	struct stat status;

	switch (kind) {
	case CONTAINER:
		CHECK(is_container(fd));
		CHECK(!fstat(fd, &status) && S_ISCHR(status.st_mode));
		REFUSED((int)read(fd, &value, 8), EINVAL);
		break;
	case DEVICE:
		CHECK(pread(fd, &id, 4, CONFIG) == 4 && id == 0x0d1e1d0f);
		CHECK(is_device(fd));
		break;
	case NUL:
		CHECK(write(fd, &value, 8) == 8 && read(fd, &value, 8) == 0);
		REFUSED(ioctl(fd, VFIO_GET_API_VERSION), ENOTTY);
		break;
	case MEMORY:
		CHECK(pwrite(fd, &number, 8, 8) == 8);
		CHECK(pread(fd, &value, 8, 8) == 8 && value == number);
		REFUSED(ioctl(fd, VFIO_DEVICE_RESET), ENOTTY);
		break;
	case EVENT:
		CHECK(read(fd, &value, 8) == 8 && value == 1);
		CHECK(write(fd, &value, 8) == 8);
		break;
	default:
		break;
	}
}

static int make(enum kind kind)
{
	int fd;

	switch (kind) {
	case CONTAINER:
		return open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	case DEVICE:
		return dup(client.device);
	case NUL:
		return open("/dev/null", O_RDWR);
	case MEMORY:
		fd = memfd_create("stress", MFD_CLOEXEC);
		CHECK(!ftruncate(fd, SIZE));
		return fd;
	default:
		return eventfd(1, EFD_CLOEXEC);
	}
}

static void drop(struct worker *worker, unsigned int at)
{
	if (worker->kinds[at] != NOTHING)
		CHECK(!close(worker->fds[at]));
	worker->kinds[at] = NOTHING;
}

/* A copy of one fd, at a number of the system's or of ours. */
static void copy(struct worker *worker, unsigned int from, unsigned int to)
{
	int fd = worker->fds[from];
	/* An eventfd is not shared: two that use it would wait. */
	bool can = worker->kinds[from] != NOTHING &&
		   worker->kinds[from] != EVENT && from != to;

	if (!can)
		return;
	if (worker->kinds[to] != NOTHING) {
		int flags = any(worker, 2) ? O_CLOEXEC : 0;

		CHECK(dup3(fd, worker->fds[to], flags) == worker->fds[to]);
	} else {
		worker->fds[to] = any(worker, 2)
					  ? dup(fd)
					  : fcntl(fd, F_DUPFD_CLOEXEC, 64);
	}
	CHECK(worker->fds[to] >= 0);
	worker->kinds[to] = worker->kinds[from];
}

/* The fd goes through a socket and comes back as another one. */
static void pass(struct worker *worker, unsigned int at)
{
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET,
				  SCM_RIGHTS } };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };

	if (worker->kinds[at] == NOTHING)
		return;
	memcpy(CMSG_DATA(&control.header), &worker->fds[at], sizeof(int));
	CHECK(sendmsg(worker->pair[0], &msg, 0) == 1);
	CHECK(!close(worker->fds[at]));
	CHECK(recvmsg(worker->pair[1], &msg, MSG_CMSG_CLOEXEC) == 1);
	memcpy(&worker->fds[at], CMSG_DATA(&control.header), sizeof(int));
}

static void map_region(uint64_t number, unsigned int word)
{
	unsigned char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
				     MAP_SHARED, client.device, region);
	uint64_t value;

	CHECK(memory != MAP_FAILED);
	__atomic_store_n((uint64_t *)(void *)memory + word, number,
			 __ATOMIC_SEQ_CST);
	CHECK(pread(client.device, &value, 8, region + 8 * (off_t)word) == 8);
	CHECK(value == number);
	CHECK(!munmap(memory, SIZE));
}

/* Memory that is mapped for DMA, and unmapped under it. */
static void map_memory(struct worker *worker, unsigned int number)
{
	uint64_t iova = (number + 1) * (64ull << 20);
	int fd = any(worker, 2) ? memfd_create("dma", MFD_CLOEXEC) : -1;
	unsigned char *memory;

	CHECK(fd < 0 || !ftruncate(fd, SIZE));
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		      fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED);
	CHECK(!map_dma(client.container, memory, iova, SIZE));
	CHECK(!unmap_dma(client.container, iova, SIZE));
	CHECK(!munmap(memory, SIZE));
	if (fd >= 0)
		close(fd);
}

static void fork_one(struct worker *worker)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		for (unsigned int i = 0; i < FDS; i++)
			if (worker->kinds[i] != EVENT)
				use(worker->kinds[i], worker->fds[i], i);
		_exit(0);
	}
	CHECK(wait_for(pid) == 0);
}

static void step(struct worker *worker, unsigned int number)
{
	unsigned int at = any(worker, FDS), other = any(worker, FDS);

	switch (any(worker, 16)) {
	case 0:
	case 1:
	case 2:
		drop(worker, at);
		worker->kinds[at] = (enum kind)(1 + any(worker, KINDS - 1));
		worker->fds[at] = make(worker->kinds[at]);
		CHECK(worker->fds[at] >= 0);
		break;
	case 3:
		drop(worker, at);
		break;
	case 4:
	case 5:
		copy(worker, at, other);
		break;
	case 6:
		pass(worker, at);
		break;
	case 7:
		map_region(worker->random, number);
		break;
	case 8:
		map_memory(worker, number);
		break;
	case 9:
		if (!any(worker, 20))
			fork_one(worker);
		break;
	default:
		use(worker->kinds[at], worker->fds[at], worker->random);
		break;
	}
	steps++;
}

struct assignment {
	unsigned int number;
	uint64_t seed;
};

static void *work(void *argument)
{
	struct assignment *assignment = argument;
	struct worker worker = {
		.random = assignment->seed * 0x9e3779b97f4a7c15u | 1
	};

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, worker.pair));
	while (!done)
		step(&worker, assignment->number);
	for (unsigned int i = 0; i < FDS; i++)
		drop(&worker, i);
	close(worker.pair[0]);
	close(worker.pair[1]);
	return NULL;
}

static void run(unsigned int first, unsigned int count, double seconds,
		uint64_t seed)
{
	struct timespec time = { (time_t)seconds,
				 (long)((seconds - (time_t)seconds) * 1e9) };
	struct assignment assignments[THREADS];
	pthread_t threads[THREADS];

	for (unsigned int i = 0; i < count; i++) {
		assignments[i] =
			(struct assignment){ first + i, seed + first + i };
		CHECK(!pthread_create(&threads[i], NULL, work,
				      &assignments[i]));
	}
	nanosleep(&time, NULL);
	done = true;
	for (unsigned int i = 0; i < count; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

int main(int argc, char **argv)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = 2 };
	pid_t children[CHILDREN];
	double seconds;
	uint64_t seed;

	client = set_up(argv);
	CHECK(argc == 5);
	seconds = atof(argv[3]);
	seed = strtoull(argv[4], NULL, 10);
	CHECK(!ioctl(client.device, VFIO_DEVICE_GET_REGION_INFO, &info));
	region = (off_t)info.offset;
	for (unsigned int i = 0; i < CHILDREN; i++) {
		children[i] = fork();
		CHECK(children[i] >= 0);
		if (!children[i]) {
			run(THREADS + 4 * i, 4, seconds, seed);
			_exit(0);
		}
	}
	run(0, THREADS, seconds, seed);
	for (unsigned int i = 0; i < CHILDREN; i++)
		CHECK(wait_for(children[i]) == 0);
	tear_down(&client);
	printf("%lu steps\n", steps);
	return 0;
}
