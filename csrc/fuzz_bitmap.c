/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Everything that the dirty bitmap can do, against an array of bools: first
 * bit by bit as the kernel does it, then the fast way, and all bits compared.
 */
#include "fuzz.h"
#include "vfe_atomic.h"

#define SPARE	  192 /* bits past the end, as many as ever move there */
#define MAX_STEPS 48

struct pair {
	struct fuzz_input *input;
	struct vfe_bitmap *fast;
	bool *slow; /* nbits + SPARE */
	uint64_t nbits;
};

static uint64_t below(struct pair *pair, uint64_t bound)
{
	return fuzz_below(pair->input, bound);
}

static void set_slow(struct pair *pair, uint64_t first, uint64_t npages)
{
	memset(pair->slow + first, 1, npages);
}

/* Some bytes of the input, as a buffer that ends where it must. */
static unsigned char *any_bits(struct pair *pair, uint64_t nbits)
{
	size_t size = (size_t)((nbits + 7) / 8);
	unsigned char *bits = fuzz_memory(size);
	uint64_t pattern = fuzz_number(pair->input, 8);

	for (size_t i = 0; i < size; i++)
		bits[i] = (unsigned char)(pattern >> i % 8 * 8);
	return bits;
}

static bool bit_of(const unsigned char *bits, uint64_t at)
{
	return bits[at / 8] >> at % 8 & 1;
}

static void step_mark(struct pair *pair)
{
	uint64_t page = below(pair, pair->nbits);

	if (below(pair, 2))
		vfe_mark(pair->fast, page);
	else
		vfe_mark_fenced(pair->fast, page);
	set_slow(pair, page, 1);
}

static void step_mark_pages(struct pair *pair)
{
	uint64_t pages[16];
	size_t count = (size_t)below(pair, 17);

	for (size_t i = 0; i < count; i++) {
		pages[i] = below(pair, pair->nbits);
		set_slow(pair, pages[i], 1);
	}
	vfe_mark_pages(pair->fast, pages, count);
}

static void step_range(struct pair *pair)
{
	uint64_t first;
	uint64_t npages;

	fuzz_range(pair->input, pair->nbits, &first, &npages);
	vfe_mark_range(pair->fast, first, npages);
	set_slow(pair, first, npages);
}

static void step_merge(struct pair *pair)
{
	uint64_t src_bit = below(pair, 100);
	bool clear = below(pair, 4) == 0;
	bool any = false;
	uint64_t first;
	uint64_t npages;

	fuzz_range(pair->input, pair->nbits, &first, &npages);
	unsigned char *src = any_bits(pair, src_bit + npages);

	for (uint64_t i = 0; i < npages; i++)
		if (bit_of(src, src_bit + i)) {
			pair->slow[first + i] = !clear;
			any = true;
		}
	if (clear)
		FUZZ_CHECK(vfe_clear_bits(pair->fast, first, npages, src,
					  src_bit) == any);
	else
		vfe_merge(pair->fast, first, npages, src, src_bit);
	free(src);
}

/* bitmap_shift_left() of whole words, and the OR of the user's first one. */
static void shift_slow(struct pair *pair, unsigned int shift, uint64_t lead)
{
	uint64_t end = (pair->nbits + shift + 63) / 64 * 64;

	for (uint64_t i = end; i-- > 0;)
		pair->slow[i] = i >= shift && pair->slow[i - shift];
	for (unsigned int i = 0; shift && i < 64; i++)
		if (lead >> i & 1)
			pair->slow[i] = true;
}

static void check_words(const struct pair *pair, const char *out, size_t nwords)
{
	for (size_t i = 0; i < nwords * 64; i++)
		FUZZ_CHECK((vfe_load(out, i / 64) >> i % 64 & 1) ==
			   pair->slow[i]);
}

/* bitmap_shift_right(bitmap, bitmap, shift, nbits + shift). */
static void unshift_slow(struct pair *pair, unsigned int shift, size_t nwords)
{
	for (uint64_t i = 0; i < nwords * 64; i++)
		pair->slow[i] = i < pair->nbits && pair->slow[i + shift];
}

static void step_harvest(struct pair *pair)
{
	unsigned int shift = (unsigned int)(below(pair, 64) * below(pair, 2));
	uint64_t lead = fuzz_number(pair->input, 8);
	size_t nwords = vfe_harvest_words(pair->fast, shift);
	size_t odd = (size_t)below(pair, 9);
	char *out = fuzz_memory(odd + nwords * 8);

	vfe_harvest(pair->fast, out + odd, shift, lead, true);
	shift_slow(pair, shift, lead);
	check_words(pair, out + odd, nwords);
	uint64_t end = below(pair, 4);

	if (end == 0) {
		vfe_restore_shifted(pair->fast, out + odd, nwords);
	} else if (end == 1 && shift) {
		vfe_unshift(pair->fast, out + odd, nwords, shift);
		unshift_slow(pair, shift, nwords);
	} else {
		memset(pair->slow, 0, pair->nbits);
	}
	free(out);
}

static void step_harvest_clean(struct pair *pair)
{
	unsigned int shift = (unsigned int)below(pair, 64);
	uint64_t lead = fuzz_number(pair->input, 8) & vfe_mask(0, shift);
	size_t nwords = vfe_harvest_words(pair->fast, shift);
	char *out = fuzz_memory(nwords * 8);

	memset(pair->slow + pair->nbits, 0, SPARE);
	vfe_harvest(pair->fast, out, shift, lead, false);
	shift_slow(pair, shift, lead);
	check_words(pair, out, nwords);
	memset(pair->slow, 0, pair->nbits + SPARE);
	free(out);
}

/* What was in `out` before stays; so does what is outside of the range. */
static void step_harvest_or(struct pair *pair)
{
	uint64_t dst_bit = below(pair, 150);
	size_t odd = (size_t)below(pair, 9);
	uint64_t first;
	uint64_t npages;

	fuzz_range(pair->input, pair->nbits, &first, &npages);
	size_t nwords = (size_t)((dst_bit + npages + 63) / 64);
	unsigned char *before = any_bits(pair, nwords * 64);
	char *room = fuzz_memory(odd + nwords * 8);

	memcpy(room + odd, before, nwords * 8);
	bool peek = below(pair, 2);

	if (peek)
		vfe_peek(pair->fast, first, npages, room + odd, dst_bit);
	else
		vfe_harvest_or(pair->fast, first, npages, room + odd, dst_bit);
	for (uint64_t i = 0; i < nwords * 64; i++) {
		bool expected = i >= dst_bit && i - dst_bit < npages &&
				pair->slow[first + i - dst_bit];

		expected |= bit_of(before, i);
		FUZZ_CHECK((vfe_load(room + odd, (size_t)i / 64) >> i % 64 &
			    1) == expected);
	}
	if (!peek)
		memset(pair->slow + first, 0, npages);
	free(room);
	free(before);
}

static void step_scaled(struct pair *pair)
{
	int up = (int)below(pair, 16) - 4;
	uint64_t dst_bit = below(pair, 70);
	uint64_t first;
	uint64_t npages;

	fuzz_range(pair->input, pair->nbits, &first, &npages);
	uint64_t nbits =
		dst_bit + (up < 0 ? npages << -up : (npages >> up) + 2);
	size_t nwords = (size_t)((nbits + 63) / 64);
	char *out = fuzz_memory(nwords * 8);
	bool *expected = fuzz_memory(nwords * 64);

	vfe_harvest_scaled(pair->fast, first, npages, out, dst_bit, up);
	for (uint64_t page = first; page < first + npages; page++) {
		if (!pair->slow[page])
			continue;
		if (up >= 0)
			expected[dst_bit + (page >> up) - (first >> up)] = true;
		else
			memset(&expected[dst_bit + ((page - first) << -up)], 1,
			       (size_t)1 << -up);
	}
	for (size_t i = 0; i < nwords * 64; i++)
		FUZZ_CHECK((vfe_load(out, i / 64) >> i % 64 & 1) ==
			   expected[i]);
	memset(pair->slow + first, 0, npages);
	free(expected);
	free(out);
}

/* Runs are ascending, apart, and together all dirty pages. */
static void step_runs(struct pair *pair)
{
	bool take = below(pair, 2);
	size_t max = take ? VFE_CHUNK_PAGES / 2 : 1 + (size_t)below(pair, 50);
	struct vfe_run *runs = fuzz_memory(max * sizeof(*runs));
	uint64_t cursor = 0;
	uint64_t seen = 0;

	while (cursor < pair->nbits) {
		size_t n = take ? vfe_take_runs(pair->fast, &cursor, runs, max)
				: vfe_runs(pair->fast, &cursor, runs, max);

		FUZZ_CHECK(n <= max);
		for (size_t i = 0; i < n; i++) {
			uint64_t end = runs[i].first + runs[i].npages;

			FUZZ_CHECK(runs[i].first >= seen && end > seen &&
				   end <= pair->nbits);
			for (; seen < end; seen++)
				FUZZ_CHECK(pair->slow[seen] ==
					   (seen >= runs[i].first));
		}
	}
	for (; seen < pair->nbits; seen++)
		FUZZ_CHECK(!pair->slow[seen]);
	if (take)
		memset(pair->slow, 0, pair->nbits);
	free(runs);
}

static void step_clear(struct pair *pair)
{
	if (below(pair, 4))
		return;
	vfe_clear(pair->fast);
	memset(pair->slow, 0, pair->nbits + SPARE);
}

static void check_same(const struct pair *pair)
{
	uint64_t count = 0;

	for (uint64_t page = 0; page < pair->nbits; page++) {
		count += pair->slow[page];
		FUZZ_CHECK(vfe_test(pair->fast, page) == pair->slow[page]);
	}
	FUZZ_CHECK(vfe_count(pair->fast) == count);
}

/* Bits of plain memory. */
static void try_buffer_runs(struct fuzz_input *input)
{
	uint64_t nbits = fuzz_below(input, 300);
	size_t nwords = (size_t)((nbits + 63) / 64);
	char *room = fuzz_memory(nwords * 8 + 1);
	struct vfe_run runs[3];
	uint64_t cursor = 0;
	uint64_t seen = 0;

	for (size_t i = 0; i < nwords; i++)
		vfe_store(room + 1, i, fuzz_number(input, 8));
	while (cursor < nbits) {
		size_t n = vfe_buffer_runs(room + 1, nbits, &cursor, runs, 3);

		for (size_t i = 0; i < n; i++) {
			uint64_t end = runs[i].first + runs[i].npages;

			FUZZ_CHECK(runs[i].first >= seen && end <= nbits);
			for (; seen < end; seen++)
				FUZZ_CHECK((vfe_load(room + 1, seen / 64) >>
						    seen % 64 &
					    1) == (seen >= runs[i].first));
		}
	}
	for (; seen < nbits; seen++)
		FUZZ_CHECK(!(vfe_load(room + 1, seen / 64) >> seen % 64 & 1));
	free(room);
}

static uint64_t any_size(struct fuzz_input *input)
{
	static const uint64_t sizes[] = { 64,	 200,	520,   4096,
					  32768, 32900, 65600, 100000 };

	return 1 + fuzz_below(input, sizes[fuzz_below(input, 8)]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const steps[])(struct pair *) = {
		step_mark,    step_mark_pages,	  step_range,
		step_merge,   step_merge,	  step_harvest,
		step_harvest, step_harvest_clean, step_harvest_or,
		step_scaled,  step_runs,	  step_clear,
	};
	struct fuzz_input input = { .data = data, .left = size };
	enum vfe_isa isa = fuzz_isa(&input);
	uint64_t nbits = any_size(&input);
	struct pair pair = {
		.input = &input,
		.fast = vfe_bitmap_create(nbits, isa),
		.slow = fuzz_memory(nbits + SPARE),
		.nbits = nbits,
	};

	FUZZ_CHECK(pair.fast);
	for (int i = 0; i < MAX_STEPS && input.left; i++)
		steps[below(&pair, sizeof(steps) / sizeof(steps[0]))](&pair);
	check_same(&pair);
	try_buffer_runs(&input);
	vfe_bitmap_destroy(pair.fast);
	free(pair.slow);
	return 0;
}
