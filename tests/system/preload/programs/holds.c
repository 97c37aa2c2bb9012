/* SPDX-License-Identifier: MIT */
/* A mapping of a region is a reference to its file: as long as any of it is
 * mapped, anywhere, the device is open. */
#include "client.h"

#define SIZE   (4 * PAGE)
#define REGION ((off_t)(2ull << VFIO_OFFSET_SHIFT))

static char **arguments;

/* A device that is mapped, and nothing else of it is open. */
static char *mapped(void)
{
	struct client client = set_up(arguments);
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    client.device, REGION);

	CHECK(memory != MAP_FAILED);
	close(client.device);
	REFUSED(ioctl(client.group, VFIO_GROUP_UNSET_CONTAINER), EBUSY);
	close(client.group);
	close(client.container);
	return memory;
}

static void is_held(void)
{
	REFUSED(open_group(arguments[1]), EBUSY);
}

static void is_free(void)
{
	int fd = open_group(arguments[1]);

	CHECK(fd >= 0);
	close(fd);
}

/* Another process lets go in its own time. */
static void is_freed(void)
{
	int fd;

	while ((fd = open_group(arguments[1])) < 0) {
		CHECK(errno == EBUSY);
		usleep(1000);
	}
	close(fd);
}

static void by_munmap(void)
{
	char *memory = mapped();

	REFUSED(munmap(memory + 1, PAGE), EINVAL);
	is_held();
	CHECK(!munmap(memory, PAGE));
	CHECK(!munmap(memory + 2 * PAGE, 1));
	is_held();
	memory[PAGE] = memory[3 * PAGE] = 1;
	CHECK(!munmap(memory + 3 * PAGE, PAGE));
	is_held();
	CHECK(!munmap(memory, SIZE));
	is_free();
}

/* A call that unmaps much more than that. */
static void with_others(void)
{
	char *memory = mapped();
	char *around = mmap(NULL, 16 * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(mremap(memory, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     around + 4 * PAGE) == around + 4 * PAGE);
	is_held();
	CHECK(!munmap(around, 16 * PAGE));
	is_free();
}

static void by_replacement(void)
{
	char *memory = mapped();
	int other = memfd_create("other", 0);

	CHECK(!ftruncate(other, SIZE));
	CHECK(mmap(memory, SIZE, PROT_READ,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		   0) == MAP_FAILED);
	REFUSED(syscall(SYS_mmap, memory + 1, SIZE, PROT_READ,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
		EINVAL);
	is_held();
	CHECK(mmap(memory, 2 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
	is_held();
	CHECK(mmap(memory + 2 * PAGE, 2 * PAGE, PROT_READ,
		   MAP_SHARED | MAP_FIXED, other, 0) == memory + 2 * PAGE);
	is_free();
	close(other);
	CHECK(!munmap(memory, SIZE));
	is_free();
}

/* By a mapping of the same kind. */
static void by_another(void)
{
	char *memory = mapped();
	struct client client;

	is_held();
	CHECK(!munmap(memory, SIZE));
	client = set_up(arguments);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		      client.device, REGION);
	CHECK(memory != MAP_FAILED);
	for (int i = 0; i < 3; i++)
		CHECK(mmap(memory + PAGE, 2 * PAGE, PROT_READ,
			   MAP_SHARED | MAP_FIXED, client.device,
			   REGION + (off_t)PAGE) == memory + PAGE);
	close(client.device);
	close(client.group);
	close(client.container);
	is_held();
	CHECK(!munmap(memory, PAGE));
	CHECK(!munmap(memory + 3 * PAGE, PAGE));
	is_held();
	CHECK(!munmap(memory + PAGE, 2 * PAGE));
	is_free();
}

static void by_mremap(void)
{
	char *memory = mapped(), *copy, *moved;
	char *place =
		mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* Shrunk, and moved. */
	CHECK(mremap(memory, SIZE, 3 * PAGE, 0) == memory);
	is_held();
	moved = mremap(memory, 3 * PAGE, 3 * PAGE,
		       MREMAP_MAYMOVE | MREMAP_FIXED, place);
	CHECK(moved == place);
	is_held();
	CHECK(!munmap(memory, SIZE)); /* where it was */
	is_held();
	/* It does not grow, nor is it mapped a second time. */
	REFUSED((long)mremap(moved, 3 * PAGE, SIZE, MREMAP_MAYMOVE), EFAULT);
	REFUSED((long)mremap(moved, 0, PAGE, MREMAP_MAYMOVE), EFAULT);
	REFUSED((long)mremap(moved, PAGE, PAGE,
			     MREMAP_MAYMOVE | MREMAP_DONTUNMAP),
		EINVAL);
	REFUSED((long)mremap(moved, PAGE, PAGE, MREMAP_FIXED, memory), EINVAL);
	is_held();
	moved[0] = 1;
	/* A page of it is moved away. */
	copy = mremap(moved + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		      memory);
	CHECK(copy == memory);
	CHECK(!munmap(moved, 3 * PAGE));
	is_held();
	CHECK(!syscall(SYS_munmap, copy, PAGE));
	is_free();
}

/* Some other mapping is moved to where it is. */
static void by_a_move(void)
{
	char *memory = mapped();
	char *other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(mremap(other, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     memory) == memory);
	is_free();
	CHECK(!munmap(memory, SIZE));
}

/* Its rights are not what holds it. */
static void not_by_mprotect(void)
{
	char *memory = mapped();

	CHECK(!mprotect(memory, SIZE, PROT_NONE));
	is_held();
	CHECK(!mprotect(memory, SIZE, PROT_READ));
	is_held();
	CHECK(!munmap(memory, SIZE));
	is_free();
}

static void by_a_child(const char *how)
{
	char *memory = mapped();
	int ends[2], back[2];
	char byte;
	pid_t child;

	CHECK(!pipe(ends) && !pipe(back));
	child = fork();
	if (!child) {
		close(ends[1]);
		CHECK(write(back[1], "x", 1) == 1);
		CHECK(read(ends[0], &byte, 1) == 1);
		if (!strcmp(how, "munmap"))
			CHECK(!munmap(memory, SIZE));
		if (!strcmp(how, "exec"))
			execl("/bin/sh", "sh", "-c", "read x", NULL);
		if (!strcmp(how, "grandchild") && fork())
			_exit(0);
		if (!strcmp(how, "kill"))
			kill(getpid(), SIGKILL);
		if (strcmp(how, "exit"))
			CHECK(!read(ends[0], &byte, 1)); /* until we go */
		_exit(0);
	}
	close(ends[0]);
	CHECK(read(back[0], &byte, 1) == 1);
	CHECK(!munmap(memory, SIZE));
	is_held();
	CHECK(write(ends[1], "x", 1) == 1);
	if (!strcmp(how, "grandchild")) {
		waitpid(child, NULL, 0);
		is_held();
		close(ends[1]);
	}
	is_freed();
	if (!strcmp(how, "exec"))
		kill(child, SIGKILL);
	close(ends[1]);
	waitpid(child, NULL, 0);
	close(back[0]);
	close(back[1]);
}

/* The parent's goes on when a child unmaps its own. */
static void not_by_a_child(void)
{
	char *memory = mapped();
	pid_t child = fork();
	int status;

	if (!child) {
		CHECK(!munmap(memory, SIZE));
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && !status);
	is_held();
	CHECK(!munmap(memory, SIZE));
	is_free();
}

/* Nor does a child hold what it does not inherit. QEMU marks BARs so. */
static void not_by_inheriting(void)
{
	for (int part = 0; part < 2; part++) {
		char *memory = mapped();
		size_t size = part ? 2 * PAGE : SIZE;
		int ends[2];
		char byte;
		pid_t child;

		CHECK(!pipe(ends));
		CHECK(!madvise(memory, size, MADV_DONTFORK));
		child = fork();
		if (!child) {
			close(ends[1]);
			CHECK(!read(ends[0], &byte, 1)); /* until it is told */
			_exit(0);
		}
		is_held();
		CHECK(!munmap(memory, SIZE));
		if (part)
			is_held();
		else
			is_freed();
		close(ends[0]);
		close(ends[1]);
		CHECK(waitpid(child, NULL, 0) == child);
		is_freed();
	}
}

/* The memory of a device is not the program's to give up. */
static void advised(void)
{
	char *memory = mapped();

	memory[PAGE] = 7;
	REFUSED(madvise(memory, SIZE, MADV_DONTNEED), EINVAL);
	REFUSED(madvise(memory, SIZE, MADV_FREE), EINVAL);
	REFUSED(madvise(memory, PAGE, MADV_DODUMP), EINVAL);
	REFUSED(madvise(memory, PAGE, MADV_DOFORK), EINVAL);
	REFUSED(madvise(memory, SIZE, MADV_REMOVE), ENODEV);
	CHECK(!madvise(memory, SIZE, MADV_DONTDUMP));
	CHECK(!madvise(memory, SIZE, MADV_RANDOM));
	CHECK(memory[PAGE] == 7);
	CHECK(!munmap(memory, SIZE));
	is_free();
}

/* The reference is no fd that the program could close, find or overwrite. */
static void not_by_close(void)
{
	char *memory = mapped();
	int null;

	CHECK(!close_range(3, ~0u, 0));
	is_held();
	for (int fd = 3; fd < 2048; fd++)
		close(fd);
	is_held();
	null = open("/dev/null", O_RDONLY);
	CHECK(null == 3); /* the lowest, as if there were no other */
	for (int fd = 4; fd < 1024; fd++)
		CHECK(dup2(null, fd) == fd);
	closefrom(3);
	is_held();
	CHECK(!munmap(memory, SIZE));
	is_free();
}

static void many(void)
{
	struct client client = set_up(arguments);
	char *memory[64];

	for (int i = 0; i < 64; i++) {
		memory[i] = mmap(NULL, SIZE, PROT_READ, MAP_SHARED,
				 client.device, REGION);
		CHECK(memory[i] != MAP_FAILED);
	}
	close(client.device);
	close(client.group);
	close(client.container);
	for (int i = 0; i < 64; i++)
		CHECK(!munmap(memory[i] + PAGE, PAGE));
	for (int i = 63; i >= 0; i--) {
		is_held();
		CHECK(!munmap(memory[i], SIZE));
	}
	is_free();
}

/* Two fds of one device are two files: each mapping holds its own. */
static void two_files(void)
{
	struct client client = set_up(arguments);
	int second = ioctl(client.group, VFIO_GROUP_GET_DEVICE_FD,
			   client.device_name);
	char *one =
		mmap(NULL, PAGE, PROT_READ, MAP_SHARED, client.device, REGION);
	char *two = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, second, REGION);

	CHECK(second >= 0 && one != MAP_FAILED && two != MAP_FAILED);
	close(client.device);
	close(second);
	close(client.group);
	close(client.container);
	CHECK(!munmap(one, PAGE));
	is_held();
	CHECK(!munmap(two, PAGE));
	is_free();
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	arguments = argv;
	by_munmap();
	with_others();
	by_replacement();
	by_another();
	by_mremap();
	by_a_move();
	not_by_mprotect();
	by_a_child("munmap");
	by_a_child("exit");
	by_a_child("exec");
	by_a_child("kill");
	by_a_child("grandchild");
	not_by_a_child();
	not_by_inheriting();
	advised();
	not_by_close();
	many();
	two_files();
	puts("ok");
	return 0;
}
