/* SPDX-License-Identifier: MIT */
/**
 * @file
 * What the C tests share: a check that no -DNDEBUG takes away, memory that
 * ends where it says (so that a sanitizer sees one byte too many), and numbers
 * that are the same in every run.
 */
#ifndef TEST_UTIL_H
#define TEST_UTIL_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                   \
	do {                                                               \
		if (!(condition)) {                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, \
				#condition);                               \
			exit(1);                                           \
		}                                                          \
	} while (0)

static inline void *get_memory(size_t size)
{
	void *memory = malloc(size ? size : 1);

	CHECK(memory);
	return memset(memory, 0, size);
}

/** A number below `bound`. */
static inline uint64_t pick(uint64_t *state, uint64_t bound)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state % bound;
}

#endif
