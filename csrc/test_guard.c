/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Files that are truncated under our mapping: copies stop, batches leave a
 * descriptor undone but marked, nothing dies, and a SIGBUS outside of a guard
 * goes to whom it always went.
 */
#define _GNU_SOURCE
#include "vfe_dma.h"
#include "vfe_guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test_util.h"

#define PAGE	4096
#define PAGES	64
#define WRITERS 3

static int new_file(size_t npages)
{
	int fd = memfd_create("guard", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, (off_t)(npages * PAGE)));
	return fd;
}

static char *map_file(int fd, size_t npages)
{
	char *memory = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED, fd, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

static void test_copy_stops_at_the_first_page_that_is_gone(void)
{
	int fd = new_file(PAGES);
	char *memory = map_file(fd, PAGES);
	char *own = get_memory(PAGES * PAGE);
	size_t size = PAGES * PAGE - 200;

	memset(own, 7, PAGES * PAGE);
	for (size_t keep = 0; keep <= PAGES; keep++) {
		/* From 100 bytes into the first page on. */
		size_t left = keep ? keep * PAGE - 100 : 0;

		left = left < size ? left : size;
		CHECK(!ftruncate(fd, (off_t)(keep * PAGE)));
		CHECK(vfe_guarded_copy(memory + 100, own, size, memory + 100) ==
		      left);
		CHECK(!left || (memory[100] == 7 && memory[99 + left] == 7));
		memset(own, 0, PAGES * PAGE);
		CHECK(vfe_guarded_copy(own, memory + 100, size, memory + 100) ==
		      left);
		CHECK(!left || (own[0] == 7 && own[left - 1] == 7));
		CHECK(own[left] == 0);
		memset(own, 7, PAGES * PAGE);
		CHECK(!ftruncate(fd, 0));
		CHECK(!ftruncate(fd, (off_t)(PAGES * PAGE)));
	}
	munmap(memory, PAGES * PAGE);
	free(own);
	close(fd);
}

static struct vfe_index *index_of(char *memory, struct vfe_bitmap *bitmap)
{
	struct vfe_index *index = vfe_index_create(12);
	struct vfe_mapping mapping = {
		.iova = 0,
		.last = PAGES * PAGE - 1,
		.host = memory,
		.bitmap = bitmap,
		.prot = VFE_PROT_READ | VFE_PROT_WRITE,
	};

	CHECK(index && !vfe_index_insert(index, &mapping));
	return index;
}

static void fill_batch(struct vfe_dma *batch, uint32_t op)
{
	for (uint64_t i = 0; i < PAGES; i++)
		batch[i] = (struct vfe_dma){
			.iova = i * PAGE, .size = PAGE, .local = 0, .op = op
		};
}

static void test_batch_goes_on_behind_a_fault(void)
{
	int fd = new_file(PAGES);
	char *memory = map_file(fd, PAGES);
	struct vfe_bitmap *bitmap = vfe_bitmap_create(PAGES, VFE_ISA_BEST);
	struct vfe_index *index = index_of(memory, bitmap);
	struct vfe_dma batch[PAGES];
	char *own = get_memory(PAGE);

	memset(own, 9, PAGE);
	CHECK(!ftruncate(fd, 5 * PAGE));
	fill_batch(batch, VFE_DMA_WRITE);
	CHECK(vfe_dma_batch(index, NULL, batch, PAGES, own, PAGE) == 5);
	for (size_t i = 0; i < PAGES; i++) {
		CHECK(batch[i].status == (i < 5 ? VFE_DMA_DONE : VFE_DMA_SLOW));
		/* What may have been written in part counts as written. */
		CHECK(vfe_test(bitmap, i));
	}
	CHECK(memory[0] == 9 && memory[5 * PAGE - 1] == 9);
	vfe_clear(bitmap);
	fill_batch(batch, VFE_DMA_READ);
	CHECK(vfe_dma_batch(index, NULL, batch, PAGES, own, PAGE) == 5);
	CHECK(!vfe_count(bitmap));
	vfe_index_destroy(index);
	vfe_bitmap_destroy(bitmap);
	munmap(memory, PAGES * PAGE);
	free(own);
	close(fd);
}

/* --- a storm: everybody writes while the file shrinks and grows --- */

struct storm {
	int fd;
	int rounds;
	atomic_bool over;
};

struct tally {
	uint64_t done;
	uint64_t missed;
};

static void *write_batches(void *argument)
{
	struct storm *storm = argument;
	char *memory = map_file(storm->fd, PAGES);
	struct vfe_bitmap *bitmap = vfe_bitmap_create(PAGES, VFE_ISA_BEST);
	struct vfe_index *index = index_of(memory, bitmap);
	struct tally *tally = get_memory(sizeof(*tally));
	struct vfe_dma batch[PAGES];
	char *own = get_memory(PAGES * PAGE);

	while (!atomic_load(&storm->over)) {
		vfe_clear(bitmap);
		fill_batch(batch, VFE_DMA_WRITE);
		size_t done = vfe_dma_batch(index, NULL, batch, PAGES, own,
					    PAGES * PAGE);

		CHECK(vfe_count(bitmap) == PAGES);
		tally->done += done;
		tally->missed += PAGES - done;
		size_t copied =
			vfe_guarded_copy(own, memory, PAGES * PAGE, memory);

		CHECK(copied % PAGE == 0 && copied <= PAGES * PAGE);
		memset(own, 0, PAGES * PAGE);
	}
	vfe_index_destroy(index);
	vfe_bitmap_destroy(bitmap);
	munmap(memory, PAGES * PAGE);
	free(own);
	return tally;
}

static void *truncate_it(void *argument)
{
	struct storm *storm = argument;
	uint64_t seed = 42;

	for (int i = 0; i < storm->rounds; i++)
		CHECK(!ftruncate(storm->fd,
				 (off_t)(pick(&seed, PAGES + 1) * PAGE)));
	atomic_store(&storm->over, true);
	return NULL;
}

static void test_storm(int rounds)
{
	struct storm storm = { .fd = new_file(PAGES), .rounds = rounds };
	pthread_t writers[WRITERS];
	pthread_t other;
	uint64_t done = 0;
	uint64_t missed = 0;

	for (size_t i = 0; i < WRITERS; i++)
		CHECK(!pthread_create(&writers[i], NULL, write_batches,
				      &storm));
	CHECK(!pthread_create(&other, NULL, truncate_it, &storm));
	CHECK(!pthread_join(other, NULL));
	for (size_t i = 0; i < WRITERS; i++) {
		struct tally *tally;

		CHECK(!pthread_join(writers[i], (void **)&tally));
		done += tally->done;
		missed += tally->missed;
		free(tally);
	}
	printf("storm: %lu descriptors done, %lu not\n", (unsigned long)done,
	       (unsigned long)missed);
	fflush(stdout); /* once: there will be forks */
	CHECK(done && missed);
	close(storm.fd);
}

/* --- whose SIGBUS it is --- */

static void on_bus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	_exit(info->si_code > 0 ? 77 : 78);
}

static int end_of(void (*child)(void))
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		child();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

static void fault(void)
{
	int fd = new_file(1);
	volatile char *memory = map_file(fd, 1);

	CHECK(!ftruncate(fd, 0));
	*memory = 1;
}

static void install_and_fault(void)
{
	signal(SIGBUS, SIG_DFL);
	CHECK(!vfe_guard_install());
	fault();
}

static void chain_and_fault(void)
{
	struct sigaction action = { .sa_sigaction = on_bus,
				    .sa_flags = SA_SIGINFO };

	CHECK(!sigaction(SIGBUS, &action, NULL));
	CHECK(!vfe_guard_install() && !vfe_guard_install());
	fault();
}

static void send_within_a_guard(void)
{
	struct sigaction action = { .sa_sigaction = on_bus,
				    .sa_flags = SA_SIGINFO };
	struct vfe_guard guard;

	CHECK(!sigaction(SIGBUS, &action, NULL));
	CHECK(!vfe_guard_install());
	if (vfe_guard_enter(&guard))
		_exit(79);
	raise(SIGBUS);
	vfe_guard_leave(&guard);
}

static void send_what_is_ignored(void)
{
	signal(SIGBUS, SIG_IGN);
	CHECK(!vfe_guard_install());
	raise(SIGBUS);
}

static void fault_though_ignored(void)
{
	signal(SIGBUS, SIG_IGN);
	CHECK(!vfe_guard_install());
	fault();
}

static void fault_after_a_guard(void)
{
	struct sigaction action = { .sa_sigaction = on_bus,
				    .sa_flags = SA_SIGINFO };
	char byte = 0;

	CHECK(!sigaction(SIGBUS, &action, NULL));
	CHECK(!vfe_guard_install());
	CHECK(vfe_guarded_copy(&byte, &byte, 1, &byte) == 1);
	fault();
}

static void test_other_signals_go_where_they_went(void)
{
	int status = end_of(install_and_fault);

	/* A sanitizer may turn the signal into an exit status of its own. */
	CHECK(status);
	status = end_of(chain_and_fault);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 77);
	status = end_of(send_within_a_guard);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 78);
	CHECK(!end_of(send_what_is_ignored));
	/* Nobody can ignore an access that cannot be made. */
	CHECK(end_of(fault_though_ignored));
	status = end_of(fault_after_a_guard);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 77);
}

int main(int argc, char **argv)
{
	CHECK(!vfe_guard_install());
	test_copy_stops_at_the_first_page_that_is_gone();
	test_batch_goes_on_behind_a_fault();
	test_storm(argc > 1 ? atoi(argv[1]) : 20000);
	test_other_signals_go_where_they_went();
	return 0;
}
