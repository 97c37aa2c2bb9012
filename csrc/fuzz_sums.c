/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Sorting pages and their sums, page by page: runs of any kind over memory
 * whose pages are zero, or holes of a file, or neither.
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "vfe_pages.h"
#include "vfe_runs.h"
#include "vfe_sums.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGE   4096
#define NPAGES 96

enum kind { HOLE, ZERO, DATA };

/* Where each page is listed; and whether in this order. */
static void mark(unsigned char *marks, const struct vfe_run *runs, uint64_t n,
		 unsigned char mark)
{
	uint64_t end = 0;

	for (uint64_t i = 0; i < n; i++) {
		FUZZ_CHECK(runs[i].npages);
		/* Neighbours are one run. */
		FUZZ_CHECK(!i || runs[i].first > end);
		end = runs[i].first + runs[i].npages;
		FUZZ_CHECK(end <= NPAGES);
		for (uint64_t page = runs[i].first; page < end; page++) {
			FUZZ_CHECK(!marks[page]);
			marks[page] = mark;
		}
	}
}

static size_t make_runs(struct fuzz_input *input, struct vfe_run *runs)
{
	uint64_t page = fuzz_below(input, 3);
	size_t n = 0;

	while (page < NPAGES) {
		uint64_t count = 1 + fuzz_below(input, 12);

		if (count > NPAGES - page)
			count = NPAGES - page;
		runs[n++] = (struct vfe_run){ page, count };
		page += count + fuzz_below(input, 4);
	}
	return n;
}

static void check_sort(struct fuzz_input *input, const char *memory, int fd,
		       const enum kind *kinds)
{
	struct vfe_run runs[NPAGES];
	struct vfe_run full[NPAGES];
	struct vfe_run zero[NPAGES];
	size_t n = make_runs(input, runs);
	size_t max = 1 + (size_t)fuzz_below(input, NPAGES);
	uint64_t max_pages = 1 + fuzz_below(input, NPAGES);
	enum vfe_isa isa = fuzz_isa(input);
	unsigned char wanted[NPAGES] = { 0 };
	unsigned char found[NPAGES] = { 0 };
	uint64_t sums[NPAGES] = { 0 };
	uint64_t cursor[2] = { 0, 0 };
	uint64_t counts[3];
	bool done = false;

	mark(wanted, runs, 0, 0);
	for (size_t i = 0; i < n; i++)
		for (uint64_t j = 0; j < runs[i].npages; j++)
			wanted[runs[i].first + j] =
				kinds[runs[i].first + j] == DATA ? 2 : 1;
	while (!done) {
		done = vfe_sums_sort(memory, fd, PAGE, runs, n, cursor, sums,
				     full, zero, max, max_pages, counts, isa);
		FUZZ_CHECK(counts[0] <= max && counts[1] <= max);
		FUZZ_CHECK(counts[2] <= max_pages);
		FUZZ_CHECK(done || counts[0] || counts[1]);
		mark(found, full, counts[0], 2);
		mark(found, zero, counts[1], 1);
	}
	FUZZ_CHECK(!memcmp(wanted, found, sizeof(found)));
	for (uint64_t page = 0; page < NPAGES; page++) {
		uint64_t sum = 0;

		vfe_page_sums(memory, PAGE, page, 1, &sum);
		FUZZ_CHECK(sums[page] == (wanted[page] ? sum : 0));
	}
}

/* Some pages are written after they were summed: these are found, no others. */
static void check_differing(struct fuzz_input *input, char *memory, int fd)
{
	const struct vfe_run all = { 0, NPAGES };
	struct vfe_run runs[NPAGES];
	size_t max = 1 + (size_t)fuzz_below(input, NPAGES);
	unsigned char wanted[NPAGES] = { 0 };
	unsigned char found[NPAGES] = { 0 };
	uint64_t sums[NPAGES] = { 0 };
	uint64_t cursor = 0;

	vfe_sums_take(memory, fd, PAGE, &all, 1, sums);
	FUZZ_CHECK(vfe_sums_unset(sums, NPAGES) == 0);
	for (uint64_t n = fuzz_below(input, 9); n; n--) {
		uint64_t page = fuzz_below(input, NPAGES);

		if (wanted[page])
			continue;
		memory[page * PAGE + fuzz_below(input, PAGE)]++;
		wanted[page] = 1;
	}
	while (cursor < NPAGES) {
		uint64_t from = cursor;
		size_t n = vfe_sums_differing(memory, fd, PAGE, NPAGES, sums,
					      &cursor, runs, max);

		FUZZ_CHECK(n <= max && cursor > from);
		mark(found, runs, n, 1);
	}
	FUZZ_CHECK(!memcmp(wanted, found, sizeof(found)));
}

/* A table in chunks: a digest changes with any of its entries. */
static void check_digests(struct fuzz_input *input)
{
	uint64_t n = fuzz_below(input, NPAGES + 1);
	uint64_t chunk = 1 + fuzz_below(input, 20);
	uint64_t ndigests = (n + chunk - 1) / chunk;
	uint64_t *sums = fuzz_memory((size_t)n * 8);
	uint64_t *before = fuzz_memory((size_t)ndigests * 8);
	uint64_t *after = fuzz_memory((size_t)ndigests * 8);
	struct vfe_run run[2];
	uint64_t cursor = 0;

	for (uint64_t i = 0; i < n; i++)
		sums[i] = fuzz_number(input, 2);
	vfe_sums_digests(sums, n, chunk, before);
	if (n) {
		uint64_t at = fuzz_below(input, n);

		sums[at] ^= (uint64_t)1 << fuzz_below(input, 64);
		vfe_sums_digests(sums, n, chunk, after);
		FUZZ_CHECK(vfe_words_differing(before, after, ndigests, &cursor,
					       run, 2) == 1);
		FUZZ_CHECK(run[0].first == at / chunk && run[0].npages == 1);
		FUZZ_CHECK(cursor == ndigests);
	}
	free(sums);
	free(before);
	free(after);
}

/* Taken in pieces, and what is left marked: each page once. */
static void check_take(struct fuzz_input *input)
{
	struct vfe_run runs[NPAGES];
	struct vfe_run out[NPAGES];
	size_t n = make_runs(input, runs);
	struct vfe_bitmap *left = vfe_bitmap_create(NPAGES, VFE_ISA_PORTABLE);
	unsigned char wanted[NPAGES] = { 0 };
	unsigned char taken[NPAGES] = { 0 };
	uint64_t cursor[2] = { 0, 0 };
	uint64_t total = vfe_runs_pages(runs, n, NPAGES);

	FUZZ_CHECK(left && total <= NPAGES);
	for (size_t i = 0; i < n; i++)
		for (uint64_t j = 0; j < runs[i].npages; j++, total--)
			wanted[runs[i].first + j] = 1;
	FUZZ_CHECK(!total);
	for (uint64_t times = fuzz_below(input, 5); times; times--) {
		uint64_t most = fuzz_below(input, NPAGES);
		size_t max = (size_t)fuzz_below(input, NPAGES);
		size_t got = vfe_runs_take(runs, n, cursor, most, out, max);

		FUZZ_CHECK(got <= max);
		for (size_t i = 0; i < got; i++)
			for (uint64_t j = 0; j < out[i].npages; j++, most--) {
				FUZZ_CHECK(most);
				FUZZ_CHECK(!taken[out[i].first + j]++);
			}
	}
	vfe_runs_mark(runs, n, cursor, left);
	for (uint64_t page = 0; page < NPAGES; page++)
		FUZZ_CHECK(taken[page] + vfe_test(left, page) == wanted[page]);
	vfe_bitmap_destroy(left);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { .data = data, .left = size };
	int fd = memfd_create("fuzz", 0);
	bool ask = fuzz_below(&input, 2);
	enum kind kinds[NPAGES];
	char *memory;

	FUZZ_CHECK(fd >= 0 && !ftruncate(fd, (off_t)NPAGES * PAGE));
	memory = mmap(NULL, (size_t)NPAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_SHARED, fd, 0);
	FUZZ_CHECK(memory != MAP_FAILED);
	for (uint64_t page = 0; page < NPAGES; page++) {
		kinds[page] = (enum kind)fuzz_below(&input, 3);
		if (kinds[page] != HOLE)
			memory[page * PAGE + fuzz_below(&input, PAGE)] =
				kinds[page] == DATA;
	}
	check_sort(&input, memory, ask ? fd : -1, kinds);
	check_differing(&input, memory, ask ? fd : -1);
	check_digests(&input);
	check_take(&input);
	munmap(memory, (size_t)NPAGES * PAGE);
	close(fd);
	return 0;
}
