// SPDX-License-Identifier: MIT
/*
 * small NODE DEVICE: everything that a signal handler may call, on names of the
 * daemon's, with little stack: in a thread with the least that there is, in one
 * as a context of makecontext(), and in a handler that has 4 KiB beyond the
 * frame.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#define CHECK(what)                                                  \
	do {                                                         \
		if (!(what)) {                                       \
			fprintf(stderr, "line %d: " #what " (%m)\n", \
				__LINE__);                           \
			exit(1);                                     \
		}                                                    \
	} while (0)

static const char *node;
static char vendor[256], override[256], link_name[256];
static volatile int done;

static void all_of_it(void)
{
	struct stat status;
	char text[32];
	int fd = open("/dev/vfio/vfio", O_RDWR);

	CHECK(fd >= 0 && ioctl(fd, VFIO_GET_API_VERSION) == VFIO_API_VERSION);
	CHECK(!fstat(fd, &status) && S_ISCHR(status.st_mode) && !close(fd));
	CHECK(!stat(node, &status) && S_ISCHR(status.st_mode) &&
	      !access(node, R_OK));
	CHECK(!lstat(link_name, &status) && S_ISLNK(status.st_mode));
	CHECK(readlink(link_name, text, sizeof(text)) > 0);
	fd = open(vendor, O_RDONLY);
	CHECK(fd >= 0 && read(fd, text, 6) == 6 && !strncmp(text, "0x", 2) &&
	      !close(fd));
	fd = open(override, O_RDWR);
	CHECK(fd >= 0 && write(fd, "vfio-pci", 8) == 8 &&
	      pread(fd, text, 8, 0) == 8);
	CHECK(!memcmp(text, "vfio-pci", 8) && !close(fd));
	CHECK(!chdir("/sys/bus") && !stat("pci/../pci", &status) &&
	      !chdir("/"));
	done++;
}

static void *thread(void *argument)
{
	all_of_it();
	return argument;
}

static void handle(int number)
{
	(void)number;
	all_of_it();
}

static void in_a_thread(void)
{
	pthread_attr_t attributes;
	pthread_t other;

	CHECK(!pthread_attr_init(&attributes));
	CHECK(!pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN));
	CHECK(!pthread_create(&other, &attributes, thread, NULL));
	CHECK(!pthread_join(other, NULL));
}

/* Memory whose first page cannot be touched. */
static char *stack_of(size_t size)
{
	char *memory = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED && !mprotect(memory, 4096, PROT_NONE));
	return memory + 4096;
}

static void in_a_context(void)
{
	ucontext_t here, there;

	CHECK(!getcontext(&there));
	there.uc_stack.ss_size = 12288;
	there.uc_stack.ss_sp = stack_of(there.uc_stack.ss_size);
	there.uc_link = &here;
	makecontext(&there, all_of_it, 0);
	CHECK(!swapcontext(&here, &there));
}

static void in_a_handler(void)
{
	struct sigaction action = { .sa_handler = handle,
				    .sa_flags = SA_ONSTACK };
	size_t size =
		((size_t)sysconf(_SC_MINSIGSTKSZ) + 4096 + 4095) & ~4095ul;
	char *memory = stack_of(size);
	size_t spare = size - (size_t)sysconf(_SC_MINSIGSTKSZ) - 4096;
	stack_t stack = { .ss_sp = memory, .ss_size = size - (spare & ~15ul) };

	CHECK(!sigaltstack(&stack, NULL) &&
	      !sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	node = argv[1];
	snprintf(vendor, sizeof(vendor), "%s/vendor", argv[2]);
	snprintf(override, sizeof(override), "%s/driver_override", argv[2]);
	snprintf(link_name, sizeof(link_name), "%s", argv[2]);
	in_a_thread();
	in_a_context();
	in_a_handler();
	CHECK(done == 3);
	puts("ok");
	return 0;
}
