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

/* What signal-safety(7) has of the functions that change files. */
static void change_things(void)
{
	static const char *const not = "/nowhere/file",
				 *const other = "/nowhere/other";
	static const struct timespec times[2];
	char *const none[] = { NULL };

	CHECK(unlink(not) && rmdir(not) && unlinkat(-1, not, 0) &&
	      mkdir(not, 0) && mkfifo(not, 0));
	CHECK(rename(not, other) && link(not, other) && symlink(not, other) &&
	      mknod(not, 0, 0));
	CHECK(renameat(-1, not, -1, other) && linkat(-1, not, -1, other, 0) &&
	      mkdirat(-1, not, 0));
	CHECK(chmod(not, 0) && chown(not, 0, 0) && lchown(not, 0, 0) &&
	      fchmodat(-1, not, 0, 0));
	CHECK(fchownat(-1, not, 0, 0, 0) && truncate(not, 0) &&
	      utimensat(-1, not, times, 0));
	CHECK(fchmod(-1, 0) && fchown(-1, 0, 0) && ftruncate(-1, 0) &&
	      chdir(not) && fchdir(-1));
	CHECK(execve(not, none, none) && openat(-1, not, O_RDONLY) < 0 &&
	      creat(not, 0) < 0);
	CHECK(readlinkat(-1, not, NULL, 1) && faccessat(-1, not, 0, 0));
}

static void look_around(int number)
{
	struct stat status;
	char name[64];
	int fd = open("/proc/self/status", O_RDONLY);

	(void)number;
	CHECK(fd >= 0 && !fstat(fd, &status) && !close(fd));
	CHECK(!stat("/proc/self/exe", &status));
	CHECK(!lstat("/proc/self/exe", &status));
	CHECK(!access("/proc/self/exe", X_OK));
	CHECK(readlink("/proc/self", name, sizeof(name)) > 0);
	change_things();
	caught++;
}

/* A handler with little more stack than the kernel itself needs for it. */
static void small_stack(void)
{
	struct sigaction action = { .sa_handler = look_around,
				    .sa_flags = SA_ONSTACK };
	size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ) + 2048, room = 16 * PAGE;
	char *memory = pages(room / PAGE);
	stack_t stack = { .ss_sp = memory + room - size, .ss_size = size };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return; /* theirs have large frames */
#endif
	look_around(0); /* the dynamic linker takes its time only once */
	CHECK(size < room - PAGE);
	memset(memory, 0x5c, room - size);
	CHECK(!sigaltstack(&stack, NULL));
	CHECK(!sigaction(SIGUSR1, &action, NULL));
	CHECK(!raise(SIGUSR1) && caught == 2);
	for (size_t i = 0; i < room - size; i++)
		CHECK(memory[i] == 0x5c);
	caught = 0;
	stack.ss_flags = SS_DISABLE;
	CHECK(!sigaltstack(&stack, NULL));
	munmap(memory, room);
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
	small_stack();
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
