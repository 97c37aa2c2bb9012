/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The sum of each page, byte by byte: XXH64 as its specification (version
 * 0.1.1) says it, for lengths that are whole stripes.
 */
#include "fuzz.h"
#include "vfe_pages.h"

#define MAX_BYTES 65536

static const uint64_t primes[] = { 0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f,
				   0x165667b19e3779f9, 0x85ebca77c2b2ae63 };

static uint64_t rotl(uint64_t x, unsigned int n)
{
	return x << n | x >> (64 - n);
}

static uint64_t round_of(uint64_t lane, uint64_t input)
{
	return rotl(lane + input * primes[1], 31) * primes[0];
}

static uint64_t sum_of(const unsigned char *bytes, size_t size)
{
	uint64_t lanes[4] = { primes[0] + primes[1], primes[1], 0,
			      0 - primes[0] };
	uint64_t sum = 0;

	for (size_t at = 0; at < size; at++) {
		uint64_t word = 0;

		if (at % 8)
			continue;
		for (unsigned int i = 8; i-- > 0;)
			word = word << 8 | bytes[at + i];
		lanes[at / 8 % 4] = round_of(lanes[at / 8 % 4], word);
	}
	sum = rotl(lanes[0], 1) + rotl(lanes[1], 7) + rotl(lanes[2], 12) +
	      rotl(lanes[3], 18);
	for (size_t i = 0; i < 4; i++)
		sum = (sum ^ round_of(0, lanes[i])) * primes[0] + primes[3];
	sum += size;
	sum = (sum ^ sum >> 33) * primes[1];
	sum = (sum ^ sum >> 29) * primes[2];
	return sum ^ sum >> 32;
}

/* Zeros but for some bytes, often the first or the last of a page. */
static void fill(struct fuzz_input *input, unsigned char *memory, size_t size,
		 size_t page_size)
{
	for (uint64_t n = fuzz_below(input, 40); n && size; n--) {
		size_t at = (size_t)fuzz_below(input, size);

		if (fuzz_below(input, 2))
			at = at / page_size * page_size +
			     (fuzz_below(input, 2) ? page_size - 1 : 0);
		memory[at] = (unsigned char)fuzz_number(input, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t sizes[] = { 64, 128, 192, 512, 4096 };
	struct fuzz_input input = { .data = data, .left = size };
	size_t page_size = sizes[fuzz_below(&input, 5)];
	uint64_t npages = fuzz_below(&input, MAX_BYTES / page_size + 1);
	uint64_t skip = fuzz_below(&input, npages + 1);
	size_t nbytes = (size_t)npages * page_size;
	unsigned char *memory = fuzz_memory(nbytes);
	uint64_t count = npages - skip;
	uint64_t *sums = fuzz_memory(count * sizeof(*sums));

	fill(&input, memory, nbytes, page_size);
	vfe_page_sums(memory, page_size, skip, count, sums);
	for (uint64_t i = 0; i < count; i++)
		FUZZ_CHECK(sums[i] ==
			   sum_of(memory + (skip + i) * page_size, page_size));
	free(sums);
	free(memory);
	return 0;
}
