/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The few atomic shapes that the bitmap uses beside plain __atomic calls, and
 * words in memory of any alignment. Little endian only, as VFIO's clients are.
 */
#ifndef VFE_ATOMIC_H
#define VFE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "bitmaps are little endian words");

/**
 * Ask for a cache line. The empty statement makes it an effect: gcc takes a
 * function that does nothing but prefetch for pure, and drops calls of it.
 */
static inline void vfe_prefetch(const void *address)
{
	__builtin_prefetch(address, 1);
	__asm__ volatile("");
}

/** Clear `mask` of a word. @return which of it were set. */
static inline uint64_t vfe_take_bits(uint64_t *word, uint64_t mask)
{
	uint64_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST) & mask;

	if (!seen)
		return 0;
	if (mask == UINT64_MAX)
		return __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST);
	return __atomic_fetch_and(word, ~mask, __ATOMIC_SEQ_CST) & mask;
}

/** Bits [lo, hi) of a word; 0 <= lo <= 64, hi <= 64. */
static inline uint64_t vfe_mask(uint64_t lo, uint64_t hi)
{
	if (lo >= hi)
		return 0;
	return (hi == 64 ? UINT64_MAX : ((uint64_t)1 << hi) - 1) &
	       ~(((uint64_t)1 << lo) - 1);
}

static inline uint64_t vfe_load(const void *words, size_t index)
{
	uint64_t value;

	memcpy(&value, (const char *)words + index * 8, 8);
	return value;
}

static inline void vfe_store(void *words, size_t index, uint64_t value)
{
	memcpy((char *)words + index * 8, &value, 8);
}

/** `high << shift` with what `low` shifts out at its top; shift < 64. */
static inline uint64_t vfe_funnel(uint64_t high, uint64_t low,
				  unsigned int shift)
{
	return shift ? high << shift | low >> (64 - shift) : high;
}

#endif
