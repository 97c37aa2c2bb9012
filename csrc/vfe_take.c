/* SPDX-License-Identifier: MIT */
#include "vfe_take.h"

#include <assert.h>

#include "vfe_atomic.h"
#include "vfe_ops.h"

/* With fewer dirty lines than this, exchanging is cheaper than the gate. */
#define GATE_WORTH_LINES 3

/* With as many dirty lines as this, taking all of them is cheaper. */
#define ALL_WORTH_LINES 24

static uint64_t exchange_word(uint64_t *word)
{
	if (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
		return 0;
	return __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST);
}

static void exchange(uint64_t *words, uint64_t mask, void *out,
		     enum vfe_sink sink)
{
	if (sink != VFE_OR)
		memset(out, 0, VFE_CHUNK_WORDS * 8);
	for (; mask; mask &= mask - 1) {
		size_t word = (size_t)__builtin_ctzll(mask) * VFE_LINE_WORDS;

		for (size_t i = word; i < word + VFE_LINE_WORDS; i++) {
			uint64_t bits = exchange_word(&words[i]);

			if (bits)
				vfe_store(out, i, vfe_load(out, i) | bits);
		}
	}
}

static void move(const struct vfe_ops *ops, uint64_t *words, uint64_t mask,
		 void *out, enum vfe_sink sink)
{
	switch (sink) {
	case VFE_STORE:
		ops->move(out, words, mask);
		break;
	case VFE_STORE_PAST:
		ops->move_past(out, words, mask);
		break;
	case VFE_OR:
		ops->move_or(out, words, mask);
		break;
	}
}

/* Lines of a chunk that exist: the last chunk may be short. */
static bool complete(const struct vfe_bitmap *bitmap, uint64_t chunk)
{
	return bitmap->nbits >> VFE_CHUNK_SHIFT > chunk;
}

uint64_t vfe_take_chunk(struct vfe_bitmap *bitmap, uint64_t chunk, void *out,
			enum vfe_sink sink)
{
	uint64_t *words = &bitmap->words[chunk * VFE_CHUNK_WORDS];
	uint64_t mask = vfe_take_bits(&bitmap->l1[chunk], UINT64_MAX);
	int nlines = __builtin_popcountll(mask);
	uint64_t *gate = &bitmap->gate[chunk];

	if (nlines < GATE_WORTH_LINES || !vfe_gate_try(gate)) {
		exchange(words, mask, out, sink);
		return mask;
	}
	if (nlines >= ALL_WORTH_LINES && complete(bitmap, chunk))
		mask = UINT64_MAX;
	move(bitmap->ops, words, mask, out, sink);
	vfe_gate_release(gate);
	return mask;
}

uint64_t vfe_take_part(struct vfe_bitmap *bitmap, uint64_t chunk, uint64_t lo,
		       uint64_t hi, uint64_t *out)
{
	assert(lo < hi && hi <= VFE_CHUNK_PAGES);
	uint64_t *words = &bitmap->words[chunk * VFE_CHUNK_WORDS];
	uint64_t *l1 = &bitmap->l1[chunk];
	uint64_t inner = vfe_mask((lo + 511) / 512, hi / 512);
	uint64_t lines = vfe_take_bits(l1, inner);
	uint64_t edges = vfe_mask(lo / 512, (hi + 511) / 512) & ~inner;

	lines |= __atomic_load_n(l1, __ATOMIC_SEQ_CST) & edges;
	memset(out, 0, VFE_CHUNK_WORDS * 8);
	for (uint64_t rest = lines; rest; rest &= rest - 1) {
		size_t word = (size_t)__builtin_ctzll(rest) * VFE_LINE_WORDS;

		for (size_t i = word; i < word + VFE_LINE_WORDS; i++) {
			uint64_t base = i * 64;
			uint64_t from = lo > base ? lo - base : 0;
			uint64_t to = hi > base ? hi - base : 0;

			out[i] = vfe_take_bits(&words[i],
					       vfe_mask(from < 64 ? from : 64,
							to < 64 ? to : 64));
		}
	}
	return lines;
}
