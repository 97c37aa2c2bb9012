/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Zero pages and checksums, at the edges of memory.
 */
#include "vfe_atomic.h"
#include "vfe_pages.h"

#include "test_util.h"

#define PAGE   128
#define NPAGES 130

static void test_zero_pages(enum vfe_isa isa)
{
	unsigned char *memory = get_memory((size_t)PAGE * NPAGES);
	char *out = get_memory(3 * 8 + 1);

	CHECK(vfe_zero_pages(memory, PAGE, 0, NPAGES, out + 1, isa) == NPAGES);
	CHECK(vfe_load(out + 1, 0) == UINT64_MAX);
	CHECK(vfe_load(out + 1, 2) == 3);
	for (size_t byte = 0; byte < PAGE; byte++) {
		memory[(size_t)PAGE * 129 + byte] = 1;
		CHECK(vfe_zero_pages(memory, PAGE, 1, 129, out, isa) == 128);
		CHECK(vfe_load(out, 2) == 0);
		memory[(size_t)PAGE * 129 + byte] = 0;
	}
	CHECK(vfe_zero_pages(memory, PAGE, NPAGES, 0, out, isa) == 0);
	free(memory);
	free(out);
}

/* XXH64 of 32 zeros and of the bytes 0 to 63, by another implementation. */
static void test_sums(void)
{
	unsigned char *memory = get_memory(128);
	uint64_t sums[2];

	for (unsigned char i = 0; i < 64; i++)
		memory[64 + i] = i;
	vfe_page_sums(memory, 64, 1, 1, sums);
	CHECK(sums[0] == 0xf7c67301db6713f0);
	vfe_page_sums(memory, 32, 0, 2, sums);
	CHECK(sums[0] == 0xf6e9be5d70632cf5 && sums[1] == 0xf6e9be5d70632cf5);
	free(memory);
}

int main(void)
{
	test_zero_pages(VFE_ISA_PORTABLE);
	test_zero_pages(VFE_ISA_BEST);
	test_sums();
	return 0;
}
