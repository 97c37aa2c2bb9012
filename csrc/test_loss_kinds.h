/* SPDX-License-Identifier: MIT */
/**
 * @file
 * For test_loss.c: every way to write and mark pages, every way to harvest, and
 * the wrong ways that must lose pages.
 */
#ifndef TEST_LOSS_KINDS_H
#define TEST_LOSS_KINDS_H

#include <assert.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "vfe_bitmap.h"
#include "vfe_dma.h"

#define BLOCK	   64 /* slots that are written once, then once more */
#define PAGE_SHIFT 6  /* a page is a cache line: what counts is the race */
#define PAGE_WORDS 8
#define MAX_SHIFT  13

struct state;

/** A way to write `count` slots for the nth time and mark them. */
struct writer_kind {
	const char *name;
	void (*write)(struct state *state, const size_t *slots, size_t count,
		      unsigned int nth);
};

/** A way to harvest; each dirty page goes to collect(). */
struct harvest_kind {
	const char *name;
	void (*harvest)(struct state *state);
};

/** Which pages are written, by how many: page = f(slot). */
struct shape {
	const char *name;
	size_t nwriters;
	size_t nslots;
	uint64_t npages;
	uint64_t (*page_after)(size_t slot, uint64_t page);
};

struct state {
	struct vfe_bitmap *bitmap;
	struct vfe_index *index;
	const struct shape *shape;
	const struct writer_kind *writer;
	const struct harvest_kind *harvester;
	uint64_t *page_of; /* by slot */
	uint32_t *slot_of; /* by page; nslots: nobody's */
	uint64_t *data;	   /* the guest's memory */
	uint64_t *copy;	   /* by slot: what the harvester last saw */
	uint64_t *words;   /* where harvests go */
	uint64_t round;
	size_t done; /* writers that are done with this round */
	uint64_t harvests;
	cpu_set_t cpus; /* that we may use */
	bool quit;
};

struct job {
	struct state *state;
	size_t writer;
};

static uint64_t *slot_data(const struct state *state, size_t slot)
{
	return &state->data[state->page_of[slot] * PAGE_WORDS];
}

/* ---- writers: slots are dealt out, so that they share words ------------- */

static uint64_t stamp(const struct state *state, unsigned int nth)
{
	return __atomic_load_n(&state->round, __ATOMIC_RELAXED) * 2 + nth;
}

static void put(struct state *state, size_t slot, unsigned int nth)
{
	__atomic_store_n(slot_data(state, slot), stamp(state, nth),
			 __ATOMIC_RELAXED);
}

static void write_mark(struct state *state, const size_t *slots, size_t count,
		       unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		put(state, slots[i], nth);
		vfe_mark(state->bitmap, state->page_of[slots[i]]);
	}
}

static void write_batch(struct state *state, const size_t *slots, size_t count,
			unsigned int nth)
{
	for (size_t i = 0; i < count; i++)
		put(state, slots[i], nth);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (size_t i = 0; i < count; i++)
		vfe_mark_fenced(state->bitmap, state->page_of[slots[i]]);
}

/* Ranges around the page, over words, lines and chunks, mark too much. */
static void write_range(struct state *state, const size_t *slots, size_t count,
			unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t page = state->page_of[slots[i]];
		uint64_t before = (slots[i] * 37 + nth) % 700;
		uint64_t after = (slots[i] * 91 + nth) % 1400 + 1;

		if (before > page)
			before = page;
		if (after > state->shape->npages - page)
			after = state->shape->npages - page;
		put(state, slots[i], nth);
		vfe_mark_range(state->bitmap, page - before, before + after);
	}
}

static void write_merge(struct state *state, const size_t *slots, size_t count,
			unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t bits = (uint64_t)1 << (slots[i] % 64);

		put(state, slots[i], nth);
		vfe_merge(state->bitmap, state->page_of[slots[i]], 1, &bits,
			  slots[i] % 64);
	}
}

static void write_dma(struct state *state, const size_t *slots, size_t count,
		      unsigned int nth)
{
	struct vfe_dma batch[BLOCK];
	uint64_t local = stamp(state, nth);

	for (size_t i = 0; i < count; i++)
		batch[i] = (struct vfe_dma){
			.iova = state->page_of[slots[i]] << PAGE_SHIFT,
			.size = sizeof(local),
			.op = VFE_DMA_WRITE,
		};
	size_t done = vfe_dma_batch(state->index, NULL, batch, count,
				    (char *)&local, sizeof(local));

	assert(done == count);
	(void)done;
}

static void wrong_test_first(struct state *state, const size_t *slots,
			     size_t count, unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t page = state->page_of[slots[i]];

		put(state, slots[i], nth);
		if (!vfe_test(state->bitmap, page))
			vfe_mark(state->bitmap, page);
	}
}

static void wrong_mark_first(struct state *state, const size_t *slots,
			     size_t count, unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		vfe_mark(state->bitmap, state->page_of[slots[i]]);
		put(state, slots[i], nth);
	}
}

static void wrong_no_gate(struct state *state, const size_t *slots,
			  size_t count, unsigned int nth)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t page = state->page_of[slots[i]];

		put(state, slots[i], nth);
		__atomic_fetch_or(&vfe_words(state->bitmap)[page / 64],
				  (uint64_t)1 << (page % 64), __ATOMIC_SEQ_CST);
		vfe_summary_set(&vfe_l1(state->bitmap)[page >> 15],
				(uint64_t)1 << (page >> 9 & 63));
		vfe_summarise(state->bitmap, page >> 15);
	}
}

/* ---- harvesters --------------------------------------------------------- */

static void collect(struct state *state, uint64_t page)
{
	size_t nslots = state->shape->nslots;
	size_t slot =
		page < state->shape->npages ? state->slot_of[page] : nslots;

	if (slot < nslots)
		state->copy[slot] = __atomic_load_n(slot_data(state, slot),
						    __ATOMIC_RELAXED);
}

static void collect_words(struct state *state, size_t nwords, uint64_t shift)
{
	for (size_t i = 0; i < nwords; i++)
		for (uint64_t bits = state->words[i]; bits; bits &= bits - 1) {
			uint64_t bit = i * 64 + (uint64_t)__builtin_ctzll(bits);

			if (bit >= shift)
				collect(state, bit - shift);
		}
}

static void harvest_overwrite(struct state *state)
{
	vfe_harvest(state->bitmap, state->words, 0, 0, true);
	collect_words(state, vfe_harvest_words(state->bitmap, 0), 0);
}

static void harvest_shifted(struct state *state)
{
	unsigned int shift = (unsigned int)(state->harvests % MAX_SHIFT) + 1;

	vfe_harvest(state->bitmap, state->words, shift, 0, true);
	collect_words(state, vfe_harvest_words(state->bitmap, shift), shift);
}

/* In odd parts, so that words, lines and chunks are shared between them. */
static void harvest_or(struct state *state)
{
	uint64_t first = 0;

	memset(state->words, 0, vfe_harvest_words(state->bitmap, 0) * 8);
	while (first < state->shape->npages) {
		uint64_t n = 100 + first % VFE_CHUNK_PAGES;

		if (n > state->shape->npages - first)
			n = state->shape->npages - first;
		vfe_harvest_or(state->bitmap, first, n, state->words, first);
		first += n;
	}
	collect_words(state, vfe_harvest_words(state->bitmap, 0), 0);
}

static void harvest_or_aligned(struct state *state)
{
	memset(state->words, 0, vfe_harvest_words(state->bitmap, 0) * 8);
	vfe_harvest_or(state->bitmap, 0, state->shape->npages, state->words, 0);
	collect_words(state, vfe_harvest_words(state->bitmap, 0), 0);
}

static void harvest_runs(struct state *state)
{
	static const size_t max = VFE_CHUNK_PAGES / 2;
	struct vfe_run *runs = (struct vfe_run *)state->words;
	uint64_t cursor = 0;

	while (cursor < state->shape->npages) {
		size_t n = vfe_take_runs(state->bitmap, &cursor, runs, max);

		for (size_t i = 0; i < n; i++)
			for (uint64_t j = 0; j < runs[i].npages; j++)
				collect(state, runs[i].first + j);
	}
}

static const struct writer_kind writers[] = {
	{ "mark", write_mark },	  { "batch", write_batch },
	{ "range", write_range }, { "merge", write_merge },
	{ "dma", write_dma },
};

static const struct harvest_kind harvesters[] = {
	{ "overwrite", harvest_overwrite }, { "shifted", harvest_shifted },
	{ "or", harvest_or_aligned },	    { "or in parts", harvest_or },
	{ "runs", harvest_runs },
};

#endif
