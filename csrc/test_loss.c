/* SPDX-License-Identifier: MIT */
/**
 * @file
 * No mark is ever lost: the sharp test, and its negative controls.
 *
 *	test_loss [MARKS [SECONDS]]
 *
 * A round: every page is written twice and marked after each write, while a
 * harvester runs all the time and copies each page that it is told of. Then
 * silence and one last harvest: a page whose copy differs has been lost. (A
 * test that keeps on rewriting pages finds nothing, because the next write
 * repairs the loss.) MARKS are shared out over all kinds of writer and
 * harvester.
 *
 * The controls do it wrong, on the same bitmap: they test a page's bit without
 * a fence after the write, mark before they write, or do not look at the gate
 * (vfe_bitmap.h). Each runs until it loses a page or SECONDS are over; a
 * harness that cannot see them fail proves nothing, so that is a failure,
 * unless there is only one CPU. They do not run with 0 SECONDS, nor under a
 * sanitizer, whose own instructions are fences of a kind.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "test_loss_kinds.h"

#define MAX_WRITERS 2
#define DISTURBED   16

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

#if UNDER_TSAN || defined(__SANITIZE_ADDRESS__)
#define INSTRUMENTED 1
#else
#define INSTRUMENTED 0
#endif

/* ---- shapes ------------------------------------------------------------- */

/* Harvests are so short that a writer is hardly ever between two of them. */
static uint64_t side_by_side(size_t slot, uint64_t page)
{
	(void)slot;
	return page + 1;
}

/* Many lines with little in each: a harvester takes the gate most times. */
static uint64_t spread(size_t slot, uint64_t page)
{
	return page + 13 + slot % 16;
}

/* Some side by side, some one a line, some far apart: both ways to take. */
static uint64_t all_over(size_t slot, uint64_t page)
{
	if (slot % 256 < 100)
		return page + 1;
	return page + (slot % 256 < 200 ? 3 + slot % 11 : 257);
}

static const struct shape shapes[] = {
	{ "word", 1, 16, 70, side_by_side },
	{ "line", 1, 256, 300, side_by_side },
	{ "lines", 2, 512, 22 * 512, spread },
	{ "chunks", 2, 2048, 5 * VFE_CHUNK_PAGES - 77, all_over },
};

static void lay_out(struct state *state)
{
	const struct shape *shape = state->shape;
	uint64_t page = 0;

	for (uint64_t i = 0; i < shape->npages; i++)
		state->slot_of[i] = (uint32_t)shape->nslots;
	for (uint32_t slot = 0; slot + 1 < shape->nslots; slot++) {
		assert(page + 1 < shape->npages);
		state->page_of[slot] = page;
		state->slot_of[page] = slot;
		page = shape->page_after(slot, page);
	}
	state->page_of[shape->nslots - 1] = shape->npages - 1;
	state->slot_of[shape->npages - 1] = (uint32_t)shape->nslots - 1;
}

/* ---- rounds ------------------------------------------------------------- */

static void write_round(struct state *state, size_t writer)
{
	size_t nwriters = state->shape->nwriters;
	size_t slots[BLOCK];
	size_t count = 0;

	for (size_t slot = writer; slot < state->shape->nslots;
	     slot += nwriters) {
		slots[count++] = slot;
		if (count < BLOCK && slot + nwriters < state->shape->nslots)
			continue;
		state->writer->write(state, slots, count, 0);
		state->writer->write(state, slots, count, 1);
		count = 0;
	}
}

/*
 * Writers and harvester meet only if they run at the same time: keep them on
 * different CPUs, where there are two.
 */
static void keep_to_cpu(const cpu_set_t *all, size_t nth)
{
	cpu_set_t one;

	nth %= (size_t)CPU_COUNT(all);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, all) || nth--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
		return;
	}
}

static void *write_rounds(void *argument)
{
	const struct job *job = argument;
	struct state *state = job->state;
	uint64_t seen = 0;

	size_t others = (size_t)CPU_COUNT(&state->cpus) - 1;

	keep_to_cpu(&state->cpus, others ? 1 + job->writer % others : 0);
	for (unsigned int spins = 0;; spins++) {
		uint64_t round =
			__atomic_load_n(&state->round, __ATOMIC_ACQUIRE);

		if (__atomic_load_n(&state->quit, __ATOMIC_ACQUIRE))
			return NULL;
		if (round == seen) {
			if (spins % 1024 == 1023)
				sched_yield();
			continue;
		}
		seen = round;
		write_round(state, job->writer);
		__atomic_fetch_add(&state->done, 1, __ATOMIC_ACQ_REL);
	}
}

/*
 * Wait a moment, so that marks gather, then read pages that nobody asked for:
 * their next write must fetch the line first, and a test of the bit overtakes
 * it, unless there is a fence.
 */
static void disturb(struct state *state)
{
	uint64_t random = state->harvests * 0x9e3779b97f4a7c15;
	uint64_t spins = random >> (53 + state->harvests % 4);

	for (uint64_t i = 0; i < spins; i++)
		__atomic_load_n(&state->done, __ATOMIC_RELAXED);
	for (size_t i = 0; i < DISTURBED; i++) {
		size_t slot = (state->harvests * DISTURBED + i) %
			      state->shape->nslots;

		__atomic_load_n(slot_data(state, slot), __ATOMIC_RELAXED);
	}
}

static void harvest(struct state *state)
{
	disturb(state);
	state->harvester->harvest(state);
	state->harvests++;
}

/* @return how many pages the last harvest of the round still left wrong. */
static uint64_t one_round(struct state *state)
{
	uint64_t lost = 0;

	__atomic_store_n(&state->done, 0, __ATOMIC_RELEASE);
	__atomic_fetch_add(&state->round, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&state->done, __ATOMIC_ACQUIRE) <
	       state->shape->nwriters)
		harvest(state);
	harvest(state);
	for (size_t slot = 0; slot < state->shape->nslots; slot++)
		lost += state->copy[slot] != *slot_data(state, slot);
	return lost;
}

static uint64_t marks_so_far(const struct state *state)
{
	return state->round * state->shape->nslots * 2;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *need(void *memory)
{
	if (!memory) {
		fprintf(stderr, "no memory\n");
		exit(1);
	}
	return memory;
}

static void state_init(struct state *state, const struct shape *shape,
		       enum vfe_isa isa)
{
	size_t memory = shape->npages * PAGE_WORDS * 8;

	*state = (struct state){
		.bitmap = need(vfe_bitmap_create(shape->npages, isa)),
		.index = need(vfe_index_create(PAGE_SHIFT)),
		.shape = shape,
		.page_of = need(calloc(shape->nslots, 8)),
		.slot_of = need(calloc(shape->npages, sizeof(uint32_t))),
		.data = need(aligned_alloc(64, memory)),
		.copy = need(calloc(shape->nslots, 8)),
		.words = need(calloc(VFE_CHUNK_PAGES, 8)),
	};
	struct vfe_mapping mapping = {
		.last = (shape->npages << PAGE_SHIFT) - 1,
		.host = (char *)state->data,
		.bitmap = state->bitmap,
		.prot = VFE_PROT_READ | VFE_PROT_WRITE,
	};

	memset(state->data, 0, memory);
	lay_out(state);
	if (vfe_index_insert(state->index, &mapping))
		exit(1);
}

static void state_deinit(struct state *state)
{
	vfe_index_destroy(state->index);
	vfe_bitmap_destroy(state->bitmap);
	free(state->page_of);
	free(state->slot_of);
	free(state->data);
	free(state->copy);
	free(state->words);
}

/* How often a harvester opened a window on a chunk. */
static uint64_t gates_taken(const struct state *state)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < state->bitmap->nchunks; i++)
		sum += vfe_gates(state->bitmap)[i] / 2;
	return sum;
}

/** One kind of everything. */
struct plan {
	const struct writer_kind *writer;
	const struct harvest_kind *harvester;
	const struct shape *shape;
	enum vfe_isa isa;
};

static void print(const struct plan *plan, const struct state *state,
		  uint64_t lost)
{
	printf("%-28s %-12s %-7s %-9s %9" PRIu64 " marks %8" PRIu64
	       " harvests %8" PRIu64 " gates %6" PRIu64 " lost\n",
	       plan->writer->name, plan->harvester->name, plan->shape->name,
	       plan->isa == VFE_ISA_PORTABLE ? "portable" : "best",
	       marks_so_far(state), state->harvests, gates_taken(state), lost);
	fflush(stdout);
}

/*
 * Run until `marks` are set, or, for a control, until a page is lost or
 * `seconds` are over. @return the pages lost.
 */
static uint64_t run(const struct plan *plan, uint64_t marks, double seconds)
{
	struct state state;
	pthread_t threads[MAX_WRITERS];
	struct job jobs[MAX_WRITERS];
	uint64_t lost = 0;
	double end = now() + seconds;

	state_init(&state, plan->shape, plan->isa);
	if (sched_getaffinity(0, sizeof(state.cpus), &state.cpus))
		exit(1);
	keep_to_cpu(&state.cpus, 0);
	state.writer = plan->writer;
	state.harvester = plan->harvester;
	for (size_t i = 0; i < plan->shape->nwriters; i++) {
		jobs[i] = (struct job){ &state, i };
		if (pthread_create(&threads[i], NULL, write_rounds, &jobs[i]))
			exit(1);
	}
	while (marks ? marks_so_far(&state) < marks : !lost && now() < end)
		lost += one_round(&state);
	__atomic_store_n(&state.quit, true, __ATOMIC_RELEASE);
	for (size_t i = 0; i < plan->shape->nwriters; i++)
		pthread_join(threads[i], NULL);
	pthread_setaffinity_np(pthread_self(), sizeof(state.cpus), &state.cpus);
	print(plan, &state, lost);
	state_deinit(&state);
	return lost;
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Whether ThreadSanitizer would misjudge it: it does not see AVX2's moves,
 * and takes DMA's plain copies for races with the harvester's reads. */
static bool blind(const struct plan *plan)
{
	return UNDER_TSAN && (plan->isa != VFE_ISA_PORTABLE ||
			      plan->writer->write == write_dma);
}

static uint64_t run_all(uint64_t marks)
{
	size_t nplans = COUNT(writers) * COUNT(harvesters) * COUNT(shapes) * 2;
	uint64_t lost = 0;

	for (size_t i = 0; i < nplans; i++) {
		size_t rest = i / 2;
		struct plan plan = {
			.isa = i % 2 ? VFE_ISA_PORTABLE : VFE_ISA_BEST,
			.shape = &shapes[rest % COUNT(shapes)],
		};

		rest /= COUNT(shapes);
		plan.harvester = &harvesters[rest % COUNT(harvesters)];
		plan.writer = &writers[rest / COUNT(harvesters)];
		if (!blind(&plan))
			lost += run(&plan, marks / nplans + 1, 0);
	}
	return lost;
}

/* What must lose pages, in the shape that shows it best. */
static const struct control {
	struct writer_kind writer;
	size_t shape;
} controls[] = {
	{ { "WRONG: test first, no fence", wrong_test_first }, 0 },
	{ { "WRONG: mark before write", wrong_mark_first }, 0 },
	{ { "WRONG: gate ignored", wrong_no_gate }, 2 },
};

static bool one_cpu(void)
{
	cpu_set_t cpus;

	return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 &&
	       CPU_COUNT(&cpus) < 2;
}

/* @return whether a control did not do what it must. */
static bool run_controls(double seconds)
{
	bool failed = false;

	for (size_t i = 0; i < COUNT(controls); i++) {
		struct plan plan = { &controls[i].writer, &harvesters[0],
				     &shapes[controls[i].shape],
				     VFE_ISA_PORTABLE };

		if (run(&plan, 0, seconds))
			continue;
		if (one_cpu()) {
			printf("%s: not provable here\n",
			       controls[i].writer.name);
			continue;
		}
		printf("%s: lost nothing in %.0f s: this test sees nothing\n",
		       controls[i].writer.name, seconds);
		failed = true;
	}
	return failed;
}

int main(int argc, char **argv)
{
	uint64_t marks = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	double seconds = argc > 2 ? strtod(argv[2], NULL) : 200;

	if (run_all(marks)) {
		printf("FAIL: pages were lost\n");
		return 1;
	}
	if (INSTRUMENTED || seconds <= 0)
		return 0;
	if (UNDER_TSAN) {
		printf("WRONG ways: not provable here, what TSan adds is fence "
		       "enough\n");
		return 0;
	}
	return run_controls(seconds) ? 1 : 0;
}
