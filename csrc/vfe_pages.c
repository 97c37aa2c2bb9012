/* SPDX-License-Identifier: MIT */
#include "vfe_pages.h"

#include <assert.h>

#include "vfe_atomic.h"

#define STRIPE_BYTES 32

/* The primes of XXH64. */
#define PRIME1 0x9e3779b185ebca87
#define PRIME2 0xc2b2ae3d27d4eb4f
#define PRIME3 0x165667b19e3779f9
#define PRIME4 0x85ebca77c2b2ae63
#define PRIME5 0x27d4eb2f165667c5

static uint64_t rotate(uint64_t value, unsigned int left)
{
	return value << left | value >> (64 - left);
}

static uint64_t mix(uint64_t lane, uint64_t input)
{
	return rotate(lane + input * PRIME2, 31) * PRIME1;
}

static uint64_t fold(uint64_t sum, uint64_t lane)
{
	return (sum ^ mix(0, lane)) * PRIME1 + PRIME4;
}

static uint64_t mix_stripes(const char *data, size_t nbytes)
{
	uint64_t a = PRIME1 + PRIME2;
	uint64_t b = PRIME2;
	uint64_t c = 0;
	uint64_t d = -PRIME1;

	for (size_t at = 0; at < nbytes; at += STRIPE_BYTES) {
		a = mix(a, vfe_load(data + at, 0));
		b = mix(b, vfe_load(data + at, 1));
		c = mix(c, vfe_load(data + at, 2));
		d = mix(d, vfe_load(data + at, 3));
	}
	uint64_t sum =
		rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);

	return fold(fold(fold(fold(sum, a), b), c), d);
}

static uint64_t finish(uint64_t sum)
{
	sum = (sum ^ sum >> 33) * PRIME2;
	sum = (sum ^ sum >> 29) * PRIME3;
	return sum ^ sum >> 32;
}

uint64_t vfe_hash(const void *data, size_t nbytes)
{
	const char *bytes = data;
	size_t whole = nbytes - nbytes % STRIPE_BYTES;
	uint64_t sum = whole ? mix_stripes(bytes, whole) : PRIME5;

	assert(nbytes % 8 == 0);
	sum += nbytes;
	for (size_t at = whole; at < nbytes; at += 8)
		sum = rotate(sum ^ mix(0, vfe_load(bytes + at, 0)), 27) *
			      PRIME1 +
		      PRIME4;
	return finish(sum);
}

void vfe_page_sums(const void *memory, size_t page_size, uint64_t first,
		   uint64_t npages, uint64_t *sums)
{
	const char *page = (const char *)memory + first * page_size;

	assert(page_size && page_size % STRIPE_BYTES == 0);
	for (uint64_t i = 0; i < npages; i++, page += page_size)
		sums[i] = vfe_hash(page, page_size);
}
