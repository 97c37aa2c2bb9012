/* SPDX-License-Identifier: MIT */
/* A program with an allocator of its own, which makes system calls, and with
 * constructors that make them before anything is ready. */
#include "client.h"

#include <dlfcn.h>

static unsigned char arena[64 << 20] __attribute__((aligned(16)));
static size_t used;
static __thread int depth;

static void make_calls(void)
{
	char byte;
	int fd;

	CHECK(++depth < 3); /* nobody allocates within */
	fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1);
	void *memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(memory != MAP_FAILED && !munmap(memory, PAGE));
	CHECK(ioctl(fd, VFIO_GET_API_VERSION) == -1);
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	CHECK(copy >= 0 && !close(copy) && !close(fd));
	depth--;
}

void *malloc(size_t size)
{
	int saved = errno;
	size_t at = __atomic_fetch_add(&used, (size + 31) & ~15ul,
				       __ATOMIC_SEQ_CST);

	CHECK(at + size + 16 < sizeof(arena));
	make_calls();
	memcpy(arena + at, &size, sizeof(size));
	errno = saved;
	return arena + at + 16;
}

void free(void *memory)
{
	int saved = errno;

	if (memory)
		make_calls();
	errno = saved;
}

void *calloc(size_t count, size_t size)
{
	return malloc(count * size); /* the arena is zero, and never reused */
}

void *realloc(void *memory, size_t size)
{
	void *fresh = malloc(size);
	size_t old = 0;

	if (memory)
		memcpy(&old, (char *)memory - 16, sizeof(old));
	if (memory)
		memcpy(fresh, memory, old < size ? old : size);
	return fresh;
}

__attribute__((constructor(101))) static void early(void)
{
	make_calls();
	free(malloc(10));
}

static void *thread(void *argument)
{
	for (int i = 0; i < 50; i++) {
		free(malloc(100));
		CHECK(is_device(*(int *)argument));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[4];
	struct client client = set_up(argv);

	(void)argc;
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, thread,
				      &client.device));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(threads[i], NULL));
	CHECK(dlsym(RTLD_DEFAULT, "no_such_function") == NULL);
	CHECK(dlerror());
	CHECK(!unmap_dma(client.container, 0, 0) || errno == EINVAL);
	tear_down(&client);
	puts("ok");
	return 0;
}
