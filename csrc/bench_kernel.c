/* SPDX-License-Identifier: MIT */
/**
 * @file
 * How fast the C kernel is against what the machine can do at all.
 *
 *	bench_kernel [ROUNDS [FILTER]]
 *
 * Each row is one JSON object a line: a name, a goal, and for each round the
 * nanoseconds of the thing and of its floor, measured in turns in this process.
 * bench/kernel.py makes ratios and a table of them.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "vfe_bitmap.h"
#include "vfe_dma.h"

#define GIB	     ((uint64_t)1 << 18) /* in pages of 4 KiB */
#define TIB	     ((uint64_t)1 << 28)
#define PAGE_SIZE    4096
#define MARKS	     16384
#define DMA_MAPPINGS 65535
#define DMA_PAGES    ((uint64_t)4) /* of a mapping */
#define DMA_BATCH    32
#define DMA_BATCHES  16

struct bench;

/** One thing to measure: prepare() is not timed, run() is. */
struct subject {
	void (*prepare)(struct bench *bench);
	void (*run)(struct bench *bench);
};

struct bench {
	uint64_t npages;
	size_t nbytes;
	struct vfe_bitmap *bitmap;
	char *pattern; /* what is dirty before each harvest */
	char *flat;    /* the floor's bitmap */
	char *out;
	char *copy;
	unsigned int shift;
	bool clean;
	uint64_t *pages; /* to mark */
	size_t npicked;
	struct vfe_index *index;
	struct vfe_bitmap **bitmaps; /* of the index */
	struct vfe_dma *batch;
	char *ram;
	char *local;
	uint64_t size; /* of a DMA */
};

struct row {
	const char *name;
	const char *detail;
	double goal;	      /* 0: none, the row only informs */
	unsigned int repeats; /* in a round, of which the best counts */
	struct subject ours;
	struct subject floor;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void *need(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED) {
		fprintf(stderr, "no memory\n");
		exit(1);
	}
	return memory;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The best of a few, so that a busy neighbour does not count. */
static double measure(const struct subject *subject, struct bench *bench,
		      unsigned int repeats)
{
	double best = INFINITY;

	for (unsigned int i = 0; i < repeats; i++) {
		if (subject->prepare)
			subject->prepare(bench);
		double start = now();

		subject->run(bench);
		__asm__ volatile("" ::: "memory");
		double taken = now() - start;

		if (taken < best)
			best = taken;
	}
	return best;
}

static void print_samples(const char *key, const double *samples,
			  unsigned int count)
{
	printf(", \"%s\": [", key);
	for (unsigned int i = 0; i < count; i++)
		printf("%s%.2f", i ? ", " : "", samples[i]);
	printf("]");
}

static void print_row(const struct row *row, struct bench *bench,
		      unsigned int rounds)
{
	double *ours = need(rounds * sizeof(*ours));
	double *floor = need(rounds * sizeof(*floor));

	measure(&row->ours, bench, row->repeats);
	measure(&row->floor, bench, row->repeats);
	for (unsigned int i = 0; i < rounds; i++) {
		if (i % 2)
			floor[i] = measure(&row->floor, bench, row->repeats);
		ours[i] = measure(&row->ours, bench, row->repeats);
		if (i % 2 == 0)
			floor[i] = measure(&row->floor, bench, row->repeats);
	}
	printf("{\"name\": \"%s\", \"detail\": \"%s\"", row->name, row->detail);
	if (row->goal > 0)
		printf(", \"goal\": %g", row->goal);
	else
		printf(", \"goal\": null");
	print_samples("ours", ours, rounds);
	print_samples("floor", floor, rounds);
	printf("}\n");
	fflush(stdout);
	munmap(ours, rounds * sizeof(*ours));
	munmap(floor, rounds * sizeof(*floor));
}

/* ---- harvests ----------------------------------------------------------- */

/* Few pages are marked one by one, as devices do; many all at once. */
static void dirty(struct bench *bench)
{
	if (bench->npicked)
		vfe_mark_pages(bench->bitmap, bench->pages, bench->npicked);
	else if (!bench->clean)
		vfe_merge(bench->bitmap, 0, bench->npages, bench->pattern, 0);
}

static void dirty_flat(struct bench *bench)
{
	memcpy(bench->flat, bench->pattern, bench->nbytes);
}

static void overwrite(struct bench *bench)
{
	vfe_harvest(bench->bitmap, bench->out, 0, 0, true);
}

static void overwrite_shifted(struct bench *bench)
{
	vfe_harvest(bench->bitmap, bench->out, bench->shift, 0, false);
}

static void merge_or(struct bench *bench)
{
	vfe_harvest_or(bench->bitmap, 0, bench->npages, bench->out, 0);
}

static void merge_or_shifted(struct bench *bench)
{
	vfe_harvest_or(bench->bitmap, 0, bench->npages, bench->out,
		       bench->shift);
}

static void copy_and_clear(struct bench *bench)
{
	memcpy(bench->out, bench->flat, bench->nbytes);
	memset(bench->flat, 0, bench->nbytes);
}

/* To a place of its own: it must not change what the harvest finds cached. */
static void copy(struct bench *bench)
{
	memcpy(bench->copy, bench->flat, bench->nbytes);
}

/* What libraries do that were not made for it: byte after byte. */
static void bytewise(struct bench *bench)
{
	for (size_t i = 0; i < bench->nbytes; i++) {
		char *byte = &bench->flat[i];

		if (__atomic_load_n(byte, __ATOMIC_RELAXED))
			bench->out[i] =
				__atomic_exchange_n(byte, 0, __ATOMIC_SEQ_CST);
		else
			bench->out[i] = 0;
	}
}

static void fill_pattern(struct bench *bench, double density)
{
	uint64_t random = 0x2545f4914f6cdd1d;
	uint64_t count = (uint64_t)((double)bench->npages * density);

	memset(bench->pattern, 0, bench->nbytes);
	bench->clean = count == 0;
	if (density >= 1) {
		memset(bench->pattern, 0xff, bench->nbytes);
		return;
	}
	if (density >= 0.5) {
		for (size_t i = 0; i < bench->nbytes; i++)
			bench->pattern[i] = (char)next_random(&random);
		return;
	}
	bench->pages = need((count + 1) * sizeof(*bench->pages));
	bench->npicked = count;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t page = next_random(&random) % bench->npages;

		bench->pages[i] = page;
		bench->pattern[page / 8] |= (char)(1 << page % 8);
	}
}

static void harvest_setup(struct bench *bench, uint64_t npages, double density)
{
	*bench = (struct bench){
		.npages = npages,
		.nbytes = npages / 8,
		.bitmap = vfe_bitmap_create(npages, VFE_ISA_BEST),
		.shift = 13,
	};
	if (!bench->bitmap)
		exit(1);
	bench->pattern = need(bench->nbytes);
	bench->flat = need(bench->nbytes);
	bench->out = need(bench->nbytes + 64);
	bench->copy = need(bench->nbytes);
	fill_pattern(bench, density);
}

static void harvest_teardown(struct bench *bench)
{
	munmap(bench->pattern, bench->nbytes);
	munmap(bench->flat, bench->nbytes);
	munmap(bench->out, bench->nbytes + 64);
	munmap(bench->copy, bench->nbytes);
	if (bench->pages)
		munmap(bench->pages,
		       (bench->npicked + 1) * sizeof(*bench->pages));
	vfe_bitmap_destroy(bench->bitmap);
}

static const struct size {
	const char *name;
	uint64_t npages;
	unsigned int repeats;
	double goal;
} sizes[] = {
	{ "1 GiB", GIB, 100, 1.5 },
	{ "16 GiB", 16 * GIB, 30, 1.1 },
	{ "1 TiB", TIB, 3, 1.1 },
};

static const double densities[] = { 0, 1e-4, 0.5, 1 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct run {
	unsigned int rounds;
	const char *filter;
};

static void measure_harvest(const struct run *run, const struct size *size,
			    double density, struct row row)
{
	char detail[64];
	struct bench bench;

	snprintf(detail, sizeof(detail), "%s, density %g", size->name, density);
	row.detail = detail;
	row.repeats = row.repeats ? row.repeats : size->repeats;
	if (run->filter && !strstr(row.name, run->filter) &&
	    !strstr(detail, run->filter))
		return;
	harvest_setup(&bench, size->npages, density);
	print_row(&row, &bench, run->rounds);
	harvest_teardown(&bench);
}

static void all_overwrite(const struct run *run)
{
	for (size_t i = 0; i < COUNT(sizes); i++)
		for (size_t j = 0; j < COUNT(densities); j++)
			measure_harvest(
				run, &sizes[i], densities[j],
				(struct row){
					.name = "harvest OVERWRITE / memcpy+memset",
					.goal = sizes[i].goal,
					.ours = { dirty, overwrite },
					.floor = { dirty_flat, copy_and_clear },
				});
}

static void all_or(const struct run *run)
{
	static const struct {
		double density;
		double goal;
		unsigned int repeats;
	} cases[] = { { 0, 0.001, 100 }, { 1e-6, 0.01, 3 }, { 1e-4, 0.2, 3 } };

	for (size_t i = 0; i < COUNT(cases); i++)
		measure_harvest(run, &sizes[2], cases[i].density,
				(struct row){
					.name = "harvest OR / memcpy",
					.goal = cases[i].goal,
					.repeats = cases[i].repeats,
					.ours = { dirty, merge_or },
					.floor = { NULL, copy },
				});
}

static void all_shifted(const struct run *run)
{
	for (size_t i = 0; i < COUNT(sizes); i += 2)
		for (size_t j = 1; j < COUNT(densities); j++) {
			measure_harvest(
				run, &sizes[i], densities[j],
				(struct row){
					.name = "harvest OVERWRITE shifted / aligned",
					.goal = 2.3,
					.ours = { dirty, overwrite_shifted },
					.floor = { dirty, overwrite },
				});
			measure_harvest(
				run, &sizes[i], densities[j],
				(struct row){
					.name = "harvest OR shifted / aligned",
					.goal = 2.3,
					.ours = { dirty, merge_or_shifted },
					.floor = { dirty, merge_or },
				});
		}
}

static void all_bytewise(const struct run *run)
{
	for (size_t i = 0; i < COUNT(sizes); i += 2)
		for (size_t j = 0; j < COUNT(densities); j++) {
			struct size size = sizes[i];

			size.repeats = size.repeats > 10 ? 10 : size.repeats;
			measure_harvest(
				run, &size, densities[j],
				(struct row){
					.name = "harvest OVERWRITE / bytewise exchange",
					.goal = 0.1,
					.ours = { dirty, overwrite },
					.floor = { dirty_flat, bytewise },
				});
		}
}

/* ---- marks -------------------------------------------------------------- */

static void unmark(struct bench *bench)
{
	vfe_clear(bench->bitmap);
}

static void unmark_flat(struct bench *bench)
{
	memset(bench->flat, 0, bench->nbytes);
}

static void mark(struct bench *bench)
{
	for (size_t i = 0; i < MARKS; i++)
		vfe_mark(bench->bitmap, bench->pages[i]);
}

static void bare_or(struct bench *bench)
{
	uint64_t *words = (uint64_t *)bench->flat;

	for (size_t i = 0; i < MARKS; i++)
		__atomic_fetch_or(&words[bench->pages[i] / 64],
				  (uint64_t)1 << bench->pages[i] % 64,
				  __ATOMIC_RELAXED);
}

static void all_marks(const struct run *run)
{
	static const struct row row = {
		.name = "mark one page / bare atomic OR",
		.detail = "1 GiB, random pages",
		.goal = 1.3,
		.repeats = 20,
		.ours = { unmark, mark },
		.floor = { unmark_flat, bare_or },
	};
	struct bench bench;
	uint64_t random = 88172645463325252;

	if (run->filter && !strstr(row.name, run->filter))
		return;
	harvest_setup(&bench, GIB, MARKS / (double)GIB);
	for (size_t i = 0; i < MARKS; i++)
		bench.pages[i] = next_random(&random) % GIB;
	print_row(&row, &bench, run->rounds);
	harvest_teardown(&bench);
}

/* ---- DMA ---------------------------------------------------------------- */

/* Other pages for each batch, so that neither side finds them cached. */
static void aim(struct bench *bench)
{
	static uint64_t random = 1181783497276652981;
	uint64_t all = DMA_MAPPINGS * DMA_PAGES * PAGE_SIZE / bench->size;

	for (size_t i = 0; i < DMA_BATCH * DMA_BATCHES; i++)
		bench->batch[i] = (struct vfe_dma){
			.iova = next_random(&random) % all * bench->size,
			.size = bench->size,
			.local = i % DMA_BATCH * bench->size,
			.op = VFE_DMA_WRITE,
		};
}

static void dma(struct bench *bench)
{
	size_t done = 0;

	for (size_t i = 0; i < DMA_BATCHES; i++)
		done += vfe_dma_batch(bench->index, NULL,
				      &bench->batch[i * DMA_BATCH], DMA_BATCH,
				      bench->local, DMA_BATCH * bench->size);
	if (done != DMA_BATCH * DMA_BATCHES)
		exit(1);
}

static void copy_loop(struct bench *bench)
{
	for (size_t i = 0; i < DMA_BATCH * DMA_BATCHES; i++) {
		const struct vfe_dma *dma = &bench->batch[i];

		memcpy(bench->ram + dma->iova, bench->local + dma->local,
		       bench->size);
	}
}

static void dma_setup(struct bench *bench)
{
	size_t ram = DMA_MAPPINGS * DMA_PAGES * PAGE_SIZE;

	*bench = (struct bench){ .index = vfe_index_create(12) };
	bench->ram = need(ram);
	bench->local = need(DMA_BATCH * PAGE_SIZE);
	memset(bench->local, 0x5a, DMA_BATCH * PAGE_SIZE);
	bench->batch = need(DMA_BATCH * DMA_BATCHES * sizeof(*bench->batch));
	bench->bitmaps = need(DMA_MAPPINGS * sizeof(*bench->bitmaps));
	for (size_t i = 0; i < DMA_MAPPINGS; i++) {
		struct vfe_mapping mapping = {
			.iova = i * DMA_PAGES * PAGE_SIZE,
			.last = (i + 1) * DMA_PAGES * PAGE_SIZE - 1,
			.host = bench->ram + i * DMA_PAGES * PAGE_SIZE,
			.bitmap = vfe_bitmap_create(DMA_PAGES, VFE_ISA_BEST),
			.prot = VFE_PROT_READ | VFE_PROT_WRITE,
		};

		bench->bitmaps[i] = mapping.bitmap;
		if (vfe_index_insert(bench->index, &mapping))
			exit(1);
	}
}

static void all_dma(const struct run *run)
{
	static const struct row rows[] = {
		{ .name = "DMA write / memcpy loop",
		  .detail = "4 KiB, batches of 32, 65535 mappings",
		  .goal = 1.0,
		  .repeats = 16,
		  .ours = { aim, dma },
		  .floor = { aim, copy_loop } },
		{ .name = "DMA write / memcpy loop",
		  .detail = "64 B, batches of 32, 65535 mappings",
		  .repeats = 16,
		  .ours = { aim, dma },
		  .floor = { aim, copy_loop } },
	};
	static const uint64_t dma_sizes[] = { PAGE_SIZE, 64 };
	struct bench bench;

	if (run->filter && !strstr(rows[0].name, run->filter))
		return;
	dma_setup(&bench);
	for (size_t i = 0; i < COUNT(rows); i++) {
		bench.size = dma_sizes[i];
		print_row(&rows[i], &bench, run->rounds);
	}
}

int main(int argc, char **argv)
{
	struct run run = {
		.rounds = argc > 1 ? (unsigned int)atoi(argv[1]) : 11,
		.filter = argc > 2 ? argv[2] : NULL,
	};

	all_overwrite(&run);
	all_or(&run);
	all_shifted(&run);
	all_bytewise(&run);
	all_marks(&run);
	all_dma(&run);
	return 0;
}
