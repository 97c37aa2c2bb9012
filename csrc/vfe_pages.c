/* SPDX-License-Identifier: MIT */
#include "vfe_pages.h"

#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_ops.h"

#define STRIPE_BYTES 32

/* The primes of XXH64. */
#define PRIME1 0x9e3779b185ebca87
#define PRIME2 0xc2b2ae3d27d4eb4f
#define PRIME3 0x165667b19e3779f9
#define PRIME4 0x85ebca77c2b2ae63

uint64_t vfe_zero_pages(const void *memory, size_t page_size, uint64_t first,
			uint64_t npages, void *out, enum vfe_isa isa)
{
	const struct vfe_ops *ops = vfe_ops_choose(isa);
	const char *page = (const char *)memory + first * page_size;
	uint64_t zeros = 0;

	assert(ops && page_size % 64 == 0);
	for (uint64_t base = 0; base < npages; base += 64) {
		uint64_t bits = 0;

		for (uint64_t i = 0; i < 64 && base + i < npages; i++) {
			bits |= (uint64_t)ops->is_zero(page, page_size) << i;
			page += page_size;
		}
		vfe_store(out, (size_t)(base / 64), bits);
		zeros += (uint64_t)__builtin_popcountll(bits);
	}
	return zeros;
}

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

static uint64_t page_sum(const char *page, size_t page_size)
{
	uint64_t a = PRIME1 + PRIME2;
	uint64_t b = PRIME2;
	uint64_t c = 0;
	uint64_t d = -PRIME1;

	for (size_t at = 0; at < page_size; at += STRIPE_BYTES) {
		a = mix(a, vfe_load(page + at, 0));
		b = mix(b, vfe_load(page + at, 1));
		c = mix(c, vfe_load(page + at, 2));
		d = mix(d, vfe_load(page + at, 3));
	}
	uint64_t sum =
		rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);

	sum = fold(fold(fold(fold(sum, a), b), c), d) + page_size;
	sum = (sum ^ sum >> 33) * PRIME2;
	sum = (sum ^ sum >> 29) * PRIME3;
	return sum ^ sum >> 32;
}

void vfe_page_sums(const void *memory, size_t page_size, uint64_t first,
		   uint64_t npages, uint64_t *sums)
{
	const char *page = (const char *)memory + first * page_size;

	assert(page_size && page_size % STRIPE_BYTES == 0);
	for (uint64_t i = 0; i < npages; i++, page += page_size)
		sums[i] = page_sum(page, page_size);
}
