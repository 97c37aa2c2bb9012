/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The bitmap against an array of bools, operation by operation, with buffers
 * that end where they must. The same comparison is made from Python with
 * Hypothesis; this one is for the sanitizers.
 */
#include "vfe_atomic.h"
#include "vfe_bitmap.h"

#include "test_util.h"

#define SPARE 128 /* bits past the end, as many as ever move there */
#define STEPS 60

struct pair {
	struct vfe_bitmap *fast;
	bool *slow; /* nbits + SPARE */
	uint64_t nbits;
	uint64_t random;
};

static uint64_t any(struct pair *pair, uint64_t bound)
{
	return pick(&pair->random, bound);
}

/* A range of pages; often a short one. */
static void any_range(struct pair *pair, uint64_t *first, uint64_t *npages)
{
	*first = any(pair, pair->nbits + 1);
	*npages = any(pair, pair->nbits - *first + 1);
	if (any(pair, 2) && *npages > 70)
		*npages = any(pair, 70);
}

static void set_slow(struct pair *pair, uint64_t first, uint64_t npages)
{
	for (uint64_t i = 0; i < npages; i++)
		pair->slow[first + i] = true;
}

static void step_mark(struct pair *pair)
{
	uint64_t page = any(pair, pair->nbits);

	vfe_mark(pair->fast, page);
	set_slow(pair, page, 1);
}

static void step_mark_fenced(struct pair *pair)
{
	uint64_t page = any(pair, pair->nbits);

	vfe_mark_fenced(pair->fast, page);
	set_slow(pair, page, 1);
}

static void step_range(struct pair *pair)
{
	uint64_t first;
	uint64_t npages;

	any_range(pair, &first, &npages);
	vfe_mark_range(pair->fast, first, npages);
	set_slow(pair, first, npages);
}

static void step_merge(struct pair *pair)
{
	uint64_t src_bit = any(pair, 100);
	uint64_t first;
	uint64_t npages;

	any_range(pair, &first, &npages);
	size_t size = (size_t)((src_bit + npages + 7) / 8);
	unsigned char *src = get_memory(size);

	for (size_t i = 0; i < size; i++)
		src[i] = (unsigned char)(any(pair, 3) ? 0 : any(pair, 256));
	vfe_merge(pair->fast, first, npages, src, src_bit);
	for (uint64_t i = 0; i < npages; i++)
		if (src[(src_bit + i) / 8] >> (src_bit + i) % 8 & 1)
			set_slow(pair, first + i, 1);
	free(src);
}

static void step_clear_bits(struct pair *pair)
{
	uint64_t src_bit = any(pair, 100);
	bool expected = false;
	uint64_t first;
	uint64_t npages;

	any_range(pair, &first, &npages);
	size_t size = (size_t)((src_bit + npages + 7) / 8);
	unsigned char *src = get_memory(size);

	for (size_t i = 0; i < size; i++)
		src[i] = (unsigned char)(any(pair, 3) ? 0 : any(pair, 256));
	for (uint64_t i = 0; i < npages; i++)
		if (src[(src_bit + i) / 8] >> (src_bit + i) % 8 & 1) {
			pair->slow[first + i] = false;
			expected = true;
		}
	CHECK(vfe_clear_bits(pair->fast, first, npages, src, src_bit) ==
	      expected);
	free(src);
}

/* What the kernel does to its bitmap, bit by bit. */
static void shift_slow(struct pair *pair, unsigned int shift, uint64_t lead)
{
	uint64_t end = (pair->nbits + shift + 63) / 64 * 64;

	for (uint64_t i = end; i-- > 0;)
		pair->slow[i] = i >= shift && pair->slow[i - shift];
	for (unsigned int i = 0; shift && i < 64; i++)
		if (lead >> i & 1)
			pair->slow[i] = true;
}

/* bitmap_shift_right() over nbits + shift bits, in whole words. */
static void unshift_slow(struct pair *pair, unsigned int shift)
{
	uint64_t end = (pair->nbits + shift + 63) / 64 * 64;

	for (uint64_t i = 0; i < end; i++)
		pair->slow[i] = i < pair->nbits && pair->slow[i + shift];
}

static void check_words(const struct pair *pair, const char *out, size_t nwords)
{
	for (size_t i = 0; i < nwords * 64; i++)
		CHECK((vfe_load(out, i / 64) >> i % 64 & 1) == pair->slow[i]);
}

static void step_harvest(struct pair *pair)
{
	unsigned int shift =
		(unsigned int)any(pair, 64) * (unsigned int)any(pair, 2);
	uint64_t lead = pair->random;
	size_t nwords = vfe_harvest_words(pair->fast, shift);
	size_t odd = (size_t)any(pair, 9);
	char *out = get_memory(odd + nwords * 8);

	memset(out, 0xa5, odd + nwords * 8);
	vfe_harvest(pair->fast, out + odd, shift, lead, true);
	shift_slow(pair, shift, lead);
	check_words(pair, out + odd, nwords);
	if (any(pair, 3)) {
		memset(pair->slow, 0, pair->nbits);
	} else if (shift && any(pair, 2)) {
		vfe_unshift(pair->fast, out + odd, nwords, shift);
		unshift_slow(pair, shift);
	} else {
		vfe_restore_shifted(pair->fast, out + odd, nwords);
	}
	free(out);
}

static void step_harvest_clean(struct pair *pair)
{
	unsigned int shift = (unsigned int)any(pair, 64);
	size_t nwords = vfe_harvest_words(pair->fast, shift);
	char *out = get_memory(nwords * 8);

	memset(pair->slow + pair->nbits, 0, SPARE);
	vfe_harvest(pair->fast, out, shift, 3, false);
	shift_slow(pair, shift, 3);
	check_words(pair, out, nwords);
	memset(pair->slow, 0, pair->nbits + SPARE);
	free(out);
}

static void step_harvest_or(struct pair *pair)
{
	uint64_t dst_bit = any(pair, 150);
	uint64_t first;
	uint64_t npages;

	any_range(pair, &first, &npages);
	size_t nwords = (size_t)((dst_bit + npages + 63) / 64);
	size_t odd = (size_t)any(pair, 9);
	char *room = get_memory(odd + nwords * 8);
	char *out = room + odd;

	bool peek = any(pair, 2);

	if (peek)
		vfe_peek(pair->fast, first, npages, out, dst_bit);
	else
		vfe_harvest_or(pair->fast, first, npages, out, dst_bit);
	for (uint64_t i = 0; i < nwords * 64; i++) {
		bool expected = i >= dst_bit && i - dst_bit < npages &&
				pair->slow[first + i - dst_bit];

		CHECK((vfe_load(out, (size_t)i / 64) >> i % 64 & 1) ==
		      expected);
	}
	if (!peek)
		memset(pair->slow + first, 0, npages);
	free(room);
}

static void step_scaled(struct pair *pair)
{
	int up = (int)any(pair, 12) - 4;
	uint64_t first;
	uint64_t npages;

	any_range(pair, &first, &npages);
	uint64_t nbits = up < 0 ? npages << -up : (npages >> up) + 2;
	size_t nwords = (size_t)((nbits + 63) / 64);
	char *out = get_memory(nwords * 8);
	bool *expected = get_memory(nwords * 64);

	vfe_harvest_scaled(pair->fast, first, npages, out, 0, up);
	for (uint64_t page = first; page < first + npages; page++) {
		if (!pair->slow[page])
			continue;
		if (up >= 0)
			expected[(page >> up) - (first >> up)] = true;
		else
			memset(&expected[(page - first) << -up], 1,
			       (size_t)1 << -up);
	}
	for (size_t i = 0; i < nwords * 64; i++)
		CHECK((vfe_load(out, i / 64) >> i % 64 & 1) == expected[i]);
	memset(pair->slow + first, 0, npages);
	free(expected);
	free(out);
}

/* Runs come in any number of calls; together they are all dirty pages. */
static void step_runs(struct pair *pair)
{
	bool take = any(pair, 2);
	size_t max = take ? VFE_CHUNK_PAGES / 2 : 1 + (size_t)any(pair, 50);
	struct vfe_run *runs = get_memory(max * sizeof(*runs));
	bool *seen = get_memory(pair->nbits);
	uint64_t cursor = 0;

	while (cursor < pair->nbits) {
		size_t n = take ? vfe_take_runs(pair->fast, &cursor, runs, max)
				: vfe_runs(pair->fast, &cursor, runs, max);

		for (size_t i = 0; i < n; i++)
			memset(seen + runs[i].first, 1, runs[i].npages);
	}
	CHECK(memcmp(seen, pair->slow, pair->nbits) == 0);
	if (take)
		memset(pair->slow, 0, pair->nbits);
	free(seen);
	free(runs);
}

static void step_clear(struct pair *pair)
{
	if (any(pair, 4))
		return;
	vfe_clear(pair->fast);
	memset(pair->slow, 0, pair->nbits + SPARE);
}

static void check_same(struct pair *pair)
{
	uint64_t count = 0;

	for (uint64_t page = 0; page < pair->nbits; page++) {
		count += pair->slow[page];
		CHECK(vfe_test(pair->fast, page) == pair->slow[page]);
	}
	CHECK(vfe_count(pair->fast) == count);
}

static void run(uint64_t nbits, enum vfe_isa isa, uint64_t seed)
{
	static void (*const steps[])(struct pair *) = {
		step_mark,    step_mark_fenced, step_range,	    step_merge,
		step_harvest, step_harvest_or,	step_harvest_clean, step_scaled,
		step_runs,    step_clear,	step_clear_bits,
	};
	struct pair pair = {
		.fast = vfe_bitmap_create(nbits, isa),
		.slow = get_memory(nbits + SPARE),
		.nbits = nbits,
		.random = seed,
	};

	CHECK(pair.fast);
	for (int i = 0; i < STEPS; i++) {
		steps[any(&pair, sizeof(steps) / sizeof(steps[0]))](&pair);
		check_same(&pair);
	}
	vfe_bitmap_destroy(pair.fast);
	free(pair.slow);
}

static void test_buffer_runs(void)
{
	uint64_t words[3] = { 0xf, 0, 0x8000000000000001 };
	struct vfe_run runs[4];
	uint64_t cursor = 0;

	CHECK(vfe_buffer_runs(words, 192, &cursor, runs, 2) == 2);
	CHECK(cursor == 191);
	CHECK(vfe_buffer_runs(words, 192, &cursor, runs + 2, 2) == 1);
	CHECK(cursor == 192);
	CHECK(runs[0].first == 0 && runs[0].npages == 4);
	CHECK(runs[1].first == 128 && runs[1].npages == 1);
	CHECK(runs[2].first == 191 && runs[2].npages == 1);
}

int main(void)
{
	static const uint64_t sizes[] = {
		1,   2,	   10,	 63,	64,    65,    100,   511,	512,
		513, 1000, 4096, 32767, 32768, 32769, 70000, 3 * 32768,
	};

	test_buffer_runs();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (uint64_t seed = 1; seed <= 6; seed++) {
			run(sizes[i], VFE_ISA_PORTABLE, seed * 7919);
			run(sizes[i], VFE_ISA_BEST, seed * 7919);
		}
	return 0;
}
