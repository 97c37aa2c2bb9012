/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Checksums, against those of another implementation.
 */
#include "vfe_pages.h"

#include "test_util.h"

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

/* XXH64 of nothing, and of the bytes 0 to 39: lengths that are no stripes. */
static void test_any_length(void)
{
	unsigned char *memory = get_memory(40);

	for (unsigned char i = 0; i < 40; i++)
		memory[i] = i;
	CHECK(vfe_hash(memory, 0) == 0xef46db3751d8e999);
	CHECK(vfe_hash(memory, 8) == 0x884a173614b81b8d);
	CHECK(vfe_hash(memory, 40) == 0xf5da40f1b11741e9);
	free(memory);
}

int main(void)
{
	test_sums();
	test_any_length();
	return 0;
}
