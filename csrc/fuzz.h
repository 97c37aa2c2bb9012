/* SPDX-License-Identifier: MIT */
/**
 * @file
 * What the fuzz targets share. A target reads what it does from an input, does
 * it on the fast code and on a naive model, and aborts where they differ.
 *
 * Each fuzz_NAME.c is linked with libFuzzer where the compiler has it, else
 * with fuzz_main.c, which takes the same options and knows no coverage.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vfe_bitmap.h"

#define FUZZ_CHECK(condition)                                            \
	do {                                                             \
		if (!(condition)) {                                      \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, \
				__LINE__, #condition);                   \
			abort();                                         \
		}                                                        \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** An input that is being read; zeros after its end. */
struct fuzz_input {
	const uint8_t *data;
	size_t left;
};

/** @return the next `size` bytes (at most 8) as a number. */
static inline uint64_t fuzz_number(struct fuzz_input *input, size_t size)
{
	uint64_t number = 0;
	size_t n = size < input->left ? size : input->left;

	if (n)
		memcpy(&number, input->data, n);
	input->data += n;
	input->left -= n;
	return number;
}

/** @return a number below `bound`, from as many bytes as it takes. */
static inline uint64_t fuzz_below(struct fuzz_input *input, uint64_t bound)
{
	size_t size = 1;

	while (size < 8 && bound > (uint64_t)1 << 8 * size)
		size++;
	return fuzz_number(input, size) % bound;
}

/** A range inside [0, n): short, long, or around a multiple of 64. */
static inline void fuzz_range(struct fuzz_input *input, uint64_t n,
			      uint64_t *first, uint64_t *count)
{
	uint64_t kind = fuzz_below(input, 4);

	*first = fuzz_below(input, n + 1);
	if (kind == 0)
		*first &= ~(uint64_t)63;
	*count = kind == 1 ? n - *first
			   : fuzz_below(input, kind == 2 ? 200 : n + 1);
	if (*count > n - *first)
		*count = n - *first;
}

/** Zeroed memory that ends where it says. */
static inline void *fuzz_memory(size_t size)
{
	void *memory = calloc(size ? size : 1, 1);

	FUZZ_CHECK(memory);
	return memory;
}

/** The instruction set of an input, among those that this CPU has. */
static inline enum vfe_isa fuzz_isa(struct fuzz_input *input)
{
	enum vfe_isa isa =
		fuzz_number(input, 1) & 1 ? VFE_ISA_AVX2 : VFE_ISA_PORTABLE;

	return vfe_isa_available(isa) ? isa : VFE_ISA_PORTABLE;
}

#endif
