/* SPDX-License-Identifier: MIT */
#include "vfe_ops.h"

#include <string.h>

#include "vfe_atomic.h"

/*
 * Words of the bitmap are read and cleared with atomic moves: they cost
 * nothing, and make the race with a writer, which will do it again, a legal
 * one.
 */
static uint64_t take_word(uint64_t *word)
{
	uint64_t value = __atomic_load_n(word, __ATOMIC_SEQ_CST);

	__atomic_store_n(word, 0, __ATOMIC_RELEASE);
	return value;
}

static void take(uint64_t *packed, uint64_t *words, const uint64_t *at,
		 size_t n)
{
	for (size_t i = 0; i < n * VFE_LINE_WORDS; i++)
		packed[i] = take_word(
			&words[at[i / VFE_LINE_WORDS] + i % VFE_LINE_WORDS]);
}

static uint64_t move(void *out, uint64_t *words, unsigned int shift,
		     uint64_t before)
{
	for (size_t i = 0; i < VFE_CHUNK_WORDS; i++) {
		uint64_t bits = take_word(&words[i]);

		vfe_store(out, i, vfe_funnel(bits, before, shift));
		before = bits;
	}
	return before;
}

static uint64_t move_or(void *out, uint64_t *words, unsigned int shift)
{
	uint64_t before = 0;

	for (size_t i = 0; i < VFE_CHUNK_WORDS; i++) {
		uint64_t bits = take_word(&words[i]);

		vfe_store(out, i,
			  vfe_load(out, i) | vfe_funnel(bits, before, shift));
		before = bits;
	}
	return before;
}

static void put(void *out, const uint64_t *line, unsigned int shift,
		uint64_t before)
{
	for (size_t i = 0; i < VFE_LINE_WORDS; i++) {
		vfe_store(out, i, vfe_funnel(line[i], before, shift));
		before = line[i];
	}
}

static void put_or(char *out, int64_t base, const uint64_t *at,
		   const uint64_t *lines, size_t n, unsigned int shift)
{
	for (size_t line = 0; line < n; line++, lines += VFE_LINE_WORDS) {
		char *to = out + (base + (int64_t)at[line]) * 8;
		uint64_t before = 0;

		for (size_t i = 0; i < VFE_LINE_WORDS; i++) {
			vfe_store(to, i,
				  vfe_load(to, i) |
					  vfe_funnel(lines[i], before, shift));
			before = lines[i];
		}
		before = vfe_funnel(0, before, shift);
		if (before)
			vfe_store(to, VFE_LINE_WORDS,
				  vfe_load(to, VFE_LINE_WORDS) | before);
	}
}

static void zero(void *out, size_t nbytes)
{
	memset(out, 0, nbytes);
}

static void drain(void)
{
}

static uint64_t count(const uint64_t *words, uint64_t mask)
{
	uint64_t sum = 0;

	for (; mask; mask &= mask - 1) {
		const uint64_t *line =
			words + (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = 0; i < VFE_LINE_WORDS; i++)
			sum += (uint64_t)__builtin_popcountll(
				__atomic_load_n(&line[i], __ATOMIC_RELAXED));
	}
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
		.take = take,
		.move = move,
		.move_past = move,
		.move_or = move_or,
		.put = put,
		.put_past = put,
		.put_or = put_or,
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

bool vfe_isa_available(enum vfe_isa isa)
{
	return vfe_ops_choose(isa) != NULL;
}
