/* SPDX-License-Identifier: MIT */
#include "vfe_ops.h"

#include <string.h>

#include "vfe_atomic.h"

/*
 * Words of the bitmap are read and cleared with atomic moves: they cost
 * nothing, and make the race with a writer, which the gate resolves, a legal
 * one.
 */
static uint64_t take_word(uint64_t *word)
{
	uint64_t value = __atomic_load_n(word, __ATOMIC_SEQ_CST);

	__atomic_store_n(word, 0, __ATOMIC_RELEASE);
	return value;
}

static void move(void *out, uint64_t *words, uint64_t mask)
{
	for (size_t line = 0; line < VFE_CHUNK_LINES; line++) {
		size_t word = line * VFE_LINE_WORDS;

		if (!(mask >> line & 1)) {
			memset((char *)out + word * 8, 0, VFE_LINE_WORDS * 8);
			continue;
		}
		for (size_t i = word; i < word + VFE_LINE_WORDS; i++)
			vfe_store(out, i, take_word(&words[i]));
	}
}

static void move_or(void *out, uint64_t *words, uint64_t mask)
{
	for (; mask; mask &= mask - 1) {
		size_t word = (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = word; i < word + VFE_LINE_WORDS; i++)
			vfe_store(out, i,
				  vfe_load(out, i) | take_word(&words[i]));
	}
}

static void shift(void *out, const uint64_t *words, size_t nwords,
		  unsigned int by)
{
	for (size_t i = 0; i < nwords; i++)
		vfe_store(out, i, vfe_funnel(words[i], (words - 1)[i], by));
}

static void shift_or(void *out, const uint64_t *words, size_t nwords,
		     unsigned int by)
{
	for (size_t i = 0; i < nwords; i++)
		vfe_store(out, i,
			  vfe_load(out, i) |
				  vfe_funnel(words[i], (words - 1)[i], by));
}

static void zero(void *out, size_t nbytes)
{
	memset(out, 0, nbytes);
}

static void drain(void)
{
}

static uint64_t count(const uint64_t *words, size_t nwords)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < nwords; i++)
		sum += (uint64_t)__builtin_popcountll(
			__atomic_load_n(&words[i], __ATOMIC_RELAXED));
	return sum;
}

static bool is_zero(const void *data, size_t nbytes)
{
	for (size_t i = 0; i < nbytes / 8; i += 8) {
		uint64_t any = 0;

		for (size_t j = i; j < i + 8; j++)
			any |= vfe_load(data, j);
		if (any)
			return false;
	}
	return true;
}

const struct vfe_ops *vfe_ops_portable(void)
{
	static const struct vfe_ops portable = {
		.move = move,
		.move_past = move,
		.move_or = move_or,
		.shift = shift,
		.shift_or = shift_or,
		.zero_past = zero,
		.drain = drain,
		.count = count,
		.is_zero = is_zero,
	};

	return &portable;
}

const struct vfe_ops *vfe_ops_choose(enum vfe_isa isa)
{
	const struct vfe_ops *avx2 = vfe_ops_avx2();

	if (isa == VFE_ISA_PORTABLE || (isa == VFE_ISA_BEST && !avx2))
		return vfe_ops_portable();
	return avx2;
}
