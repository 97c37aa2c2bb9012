/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The table of sums over a memfd with holes: what is found, and that a hole
 * is still one afterwards.
 */
#define _GNU_SOURCE
#include "vfe_sums.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfe_holes.h"
#include "vfe_move.h"
#include "vfe_pages.h"

#include "test_util.h"

#define PAGE   4096
#define NPAGES 300

static int fd;
static char *memory;
static uint64_t sums[NPAGES];
static const struct vfe_run all = { 0, NPAGES };

static void begin(void)
{
	fd = memfd_create("test", 0);
	CHECK(fd >= 0 && !ftruncate(fd, (off_t)NPAGES * PAGE));
	memory = mmap(NULL, (size_t)NPAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED);
	memset(sums, 0, sizeof(sums));
}

static void end(void)
{
	CHECK(!munmap(memory, (size_t)NPAGES * PAGE));
	CHECK(!close(fd));
}

static blkcnt_t pages_there(void)
{
	struct stat status;

	CHECK(!fstat(fd, &status));
	return status.st_blocks * 512 / PAGE;
}

static void write_page(uint64_t page)
{
	memory[page * PAGE + page] = (char)(page % 100 + 1);
}

static bool written(uint64_t page)
{
	return page % 7 == 0 || (page >= 100 && page < 160);
}

/* Whatever the order and the room is, each page is found once. */
static void sort_all(size_t max, uint64_t max_pages)
{
	uint64_t cursor[2] = { 0, 0 };
	uint64_t counts[3];
	uint64_t seen[NPAGES] = { 0 };
	struct vfe_run full[NPAGES];
	struct vfe_run zero[NPAGES];
	bool done = false;

	while (!done) {
		uint64_t npages = 0;

		done = vfe_sums_sort(memory, fd, PAGE, &all, 1, cursor, sums,
				     full, zero, max, max_pages, counts,
				     VFE_ISA_BEST);
		CHECK(counts[0] <= max && counts[1] <= max);
		for (uint64_t i = 0; i < counts[0]; i++)
			for (uint64_t j = 0; j < full[i].npages; j++, npages++)
				seen[full[i].first + j] += 2;
		CHECK(npages == counts[2] && npages <= max_pages);
		for (uint64_t i = 0; i < counts[1]; i++)
			for (uint64_t j = 0; j < zero[i].npages; j++)
				seen[zero[i].first + j] += 1;
	}
	for (uint64_t page = 0; page < NPAGES; page++)
		CHECK(seen[page] == (written(page) ? 2 : 1));
}

static void test_sort_leaves_holes(void)
{
	blkcnt_t there = 0;

	begin();
	for (uint64_t page = 0; page < NPAGES; page++)
		if (written(page))
			write_page(page);
	there = pages_there();
	sort_all(NPAGES, NPAGES);
	sort_all(1, NPAGES);
	sort_all(3, 5);
	CHECK(!vfe_sums_unset(sums, NPAGES));
	CHECK(pages_there() == there);
	for (uint64_t page = 0; page < NPAGES; page++)
		CHECK(sums[page] == vfe_hash(memory + page * PAGE, PAGE));
	end();
}

static void test_differing_and_take(void)
{
	struct vfe_run found[NPAGES];
	uint64_t cursor = 0;

	begin();
	write_page(5);
	CHECK(vfe_sums_unset(sums, NPAGES) == NPAGES);
	vfe_sums_take(memory, fd, PAGE, &all, 1, sums);
	CHECK(!vfe_sums_differing(memory, fd, PAGE, NPAGES, sums, &cursor,
				  found, 1));
	CHECK(cursor == NPAGES && pages_there() == 1);
	memory[5 * PAGE]++;
	write_page(200); /* was a hole */
	write_page(201);
	cursor = 0;
	CHECK(vfe_sums_differing(memory, fd, PAGE, NPAGES, sums, &cursor, found,
				 1) == 1);
	CHECK(found[0].first == 5 && found[0].npages == 1 && cursor == 200);
	CHECK(vfe_sums_differing(memory, fd, PAGE, NPAGES, sums, &cursor, found,
				 1) == 1);
	CHECK(found[0].first == 200 && found[0].npages == 2);
	/* Data became a hole. */
	vfe_sums_take(memory, fd, PAGE, &all, 1, sums);
	CHECK(!vfe_punch(fd, PAGE, &(struct vfe_run){ 0, 6 }, 1));
	cursor = 0;
	CHECK(vfe_sums_differing(memory, fd, PAGE, NPAGES, sums, &cursor, found,
				 NPAGES) == 1);
	CHECK(found[0].first == 5);
	end();
}

static void test_punch(void)
{
	static const struct vfe_run runs[] = {
		{ 0, 3 }, { 10, 1 }, { 12, 5 }, { 290, 10 }
	};

	begin();
	CHECK(!vfe_punch(fd, PAGE, runs, 4));
	CHECK(pages_there() == 0);
	for (uint64_t page = 0; page < NPAGES; page++)
		write_page(page);
	CHECK(!vfe_punch(fd, PAGE, runs, 4));
	CHECK(pages_there() == NPAGES - 19);
	for (uint64_t page = 0; page < NPAGES; page++) {
		bool gone = page < 3 || page == 10 ||
			    (page >= 12 && page < 17) || page >= 290;

		CHECK(memory[page * PAGE + page] ==
		      (gone ? 0 : (char)(page % 100 + 1)));
	}
	CHECK(vfe_punch(-1, PAGE, runs, 4) != 0);
	end();
}

/* Without a file to ask nothing is a hole, and all is right as well. */
static void test_no_file(void)
{
	begin();
	write_page(7);
	vfe_sums_take(memory, -1, PAGE, &all, 1, sums);
	CHECK(sums[7] == vfe_hash(memory + (size_t)7 * PAGE, PAGE));
	CHECK(sums[8] == vfe_zero_sum(PAGE));
	vfe_sums_set(sums, &(struct vfe_run){ 7, 1 }, 1, 1);
	CHECK(sums[7] == 1 && sums[6] == vfe_zero_sum(PAGE));
	end();
}

static void test_runs(void)
{
	static const struct vfe_run good[] = { { 0, 2 }, { 2, 1 }, { 9, 1 } };
	static const struct vfe_run bad[][2] = {
		{ { 0, 0 }, { 1, 1 } },	 { { 0, 2 }, { 1, 1 } },
		{ { 5, 1 }, { 1, 1 } },	 { { 0, 1 }, { 9, 2 } },
		{ { 0, 1 }, { 11, 1 } }, { { 1, UINT64_MAX }, { 3, 1 } }
	};
	uint64_t cursor[2] = { 0, 0 };
	struct vfe_run out[3];

	CHECK(vfe_runs_pages(good, 3, 10) == 4);
	CHECK(vfe_runs_pages(good, 0, 0) == 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(vfe_runs_pages(bad[i], 2, 10) == UINT64_MAX);
	CHECK(vfe_runs_take(good, 3, cursor, 1, out, 3) == 1);
	CHECK(out[0].first == 0 && out[0].npages == 1);
	CHECK(vfe_runs_take(good, 3, cursor, 2, out, 1) == 1);
	CHECK(out[0].first == 1 && out[0].npages == 1);
	CHECK(vfe_runs_take(good, 3, cursor, 9, out, 3) == 2);
	CHECK(out[0].first == 2 && out[1].first == 9);
	CHECK(vfe_runs_take(good, 3, cursor, 9, out, 3) == 0);
}

int main(void)
{
	test_sort_leaves_holes();
	test_differing_and_take();
	test_punch();
	test_no_file();
	test_runs();
	return 0;
}
