/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Copies from and to a file that is shorter than its mapping: each stops at
 * the first page that is not there, has copied what is before, and nothing
 * behind what it was asked for.
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "vfe_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGE	  4096
#define PAGES	  8
#define MAX_STEPS 16

struct file {
	int fd;
	unsigned char *memory;
	unsigned char model[PAGES * PAGE]; /* zeros where nothing is */
	size_t there;
};

static void resize(struct file *file, size_t npages)
{
	FUZZ_CHECK(!ftruncate(file->fd, (off_t)(npages * PAGE)));
	if (npages < file->there)
		memset(file->model + npages * PAGE, 0,
		       (file->there - npages) * PAGE);
	file->there = npages;
}

static void copy(struct file *file, struct fuzz_input *input)
{
	size_t at = (size_t)fuzz_below(input, PAGES * PAGE);
	size_t size = (size_t)fuzz_below(input, PAGES * PAGE - at + 1);
	unsigned char fill = (unsigned char)fuzz_number(input, 1);
	unsigned char *own = fuzz_memory(size);
	size_t there = file->there * PAGE;
	size_t most = at >= there ? 0 : there - at;
	size_t expected = size < most ? size : most;

	memset(own, fill, size);
	if (fill & 1) {
		FUZZ_CHECK(vfe_guarded_copy(file->memory + at, own, size,
					    file->memory + at) == expected);
		memset(file->model + at, fill, expected);
	} else {
		FUZZ_CHECK(vfe_guarded_copy(own, file->memory + at, size,
					    file->memory + at) == expected);
		FUZZ_CHECK(memcmp(own, file->model + at, expected) == 0);
	}
	free(own);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { .data = data, .left = size };
	static struct file file;

	memset(&file, 0, sizeof(file));
	file.fd = memfd_create("fuzz", MFD_CLOEXEC);
	FUZZ_CHECK(file.fd >= 0);
	file.memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED, file.fd, 0);
	FUZZ_CHECK(file.memory != MAP_FAILED);
	FUZZ_CHECK(!vfe_guard_install());
	for (int i = 0; i < MAX_STEPS && input.left; i++) {
		if (fuzz_below(&input, 3) == 0)
			resize(&file, (size_t)fuzz_below(&input, PAGES + 1));
		else
			copy(&file, &input);
	}
	FUZZ_CHECK(!memcmp(file.memory, file.model, file.there * PAGE));
	munmap(file.memory, PAGES * PAGE);
	close(file.fd);
	return 0;
}
