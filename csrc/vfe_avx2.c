/* SPDX-License-Identifier: MIT */
/*
 * The inner loops with AVX2. Words of the bitmap are moved 32 bytes at a time
 * while a window on their chunk is open: what a writer does to them meanwhile,
 * it does again (vfe_bitmap.h).
 */
#include "vfe_ops.h"

#include "vfe_atomic.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define AVX2   __attribute__((target("avx2,popcnt")))
#define INLINE AVX2 static inline __attribute__((always_inline))

#define LINE_BYTES  64
#define CHUNK_BYTES ((size_t)VFE_CHUNK_WORDS * 8)

/** Where 32 bytes go. */
enum way { STORE, PAST, OR };

/** A shift to the left; counts of 64 shift everything out. */
struct shift {
	__m128i left;
	__m128i right;
};

INLINE __m256i load(const void *from)
{
	return _mm256_loadu_si256((const __m256i *)from);
}

INLINE void store(void *to, __m256i value)
{
	_mm256_storeu_si256((__m256i *)to, value);
}

/* malloc() gives 16 bytes of alignment, so that is what is asked for. */
INLINE void stream(char *to, __m256i value)
{
	if (((uintptr_t)to & 31) == 0) {
		_mm256_stream_si256((__m256i *)to, value);
		return;
	}
	_mm_stream_si128((__m128i *)to, _mm256_castsi256_si128(value));
	_mm_stream_si128((__m128i *)(to + 16),
			 _mm256_extracti128_si256(value, 1));
}

INLINE void emit(char *to, __m256i value, enum way way)
{
	if (way == PAST)
		stream(to, value);
	else
		store(to, way == OR ? _mm256_or_si256(load(to), value) : value);
}

INLINE struct shift shift_by(unsigned int shift)
{
	return (struct shift){
		.left = _mm_cvtsi32_si128((int)shift),
		.right = _mm_cvtsi32_si128((int)(64 - shift)),
	};
}

INLINE __m256i funnel(__m256i words, __m256i before, struct shift shift)
{
	return _mm256_or_si256(_mm256_sll_epi64(words, shift.left),
			       _mm256_srl_epi64(before, shift.right));
}

INLINE __m256i take_half(char *words)
{
	__m256i bits = load(words);

	store(words, _mm256_setzero_si256());
	return bits;
}

AVX2 static void take(uint64_t *packed, uint64_t *words, const uint64_t *at,
		      size_t n)
{
	for (size_t i = 0; i < n; i++, packed += VFE_LINE_WORDS) {
		char *line = (char *)(words + at[i]);

		store(packed, take_half(line));
		store(packed + 4, take_half(line + 32));
	}
}

/* Two lines at a time: all loads, all stores of one place, then the other. */
INLINE uint64_t move_aligned(char *out, char *words, enum way way)
{
	uint64_t last = ((uint64_t *)words)[VFE_CHUNK_WORDS - 1];
	__m256i none = _mm256_setzero_si256();

	for (size_t at = 0; at < CHUNK_BYTES; at += 2 * LINE_BYTES) {
		__m256i a = load(words + at);
		__m256i b = load(words + at + 32);
		__m256i c = load(words + at + 64);
		__m256i d = load(words + at + 96);

		emit(out + at, a, way);
		emit(out + at + 32, b, way);
		emit(out + at + 64, c, way);
		emit(out + at + 96, d, way);
		store(words + at, none);
		store(words + at + 32, none);
		store(words + at + 64, none);
		store(words + at + 96, none);
	}
	return last;
}

/* Words are cleared behind us, so the word before comes from a register. */
INLINE uint64_t move_shifted(char *out, char *words, unsigned int shift,
			     uint64_t before, enum way way)
{
	struct shift by = shift_by(shift);
	__m256i top = _mm256_set1_epi64x((long long)before);

	for (size_t at = 0; at < CHUNK_BYTES; at += 32) {
		__m256i bits = take_half(words + at);
		__m256i turned = _mm256_permute4x64_epi64(bits, 0x93);

		emit(out + at,
		     funnel(bits, _mm256_blend_epi32(turned, top, 0x03), by),
		     way);
		top = turned;
	}
	return (uint64_t)_mm256_extract_epi64(top, 0);
}

AVX2 static uint64_t move(void *out, uint64_t *words, unsigned int shift,
			  uint64_t before)
{
	if (!shift)
		return move_aligned(out, (char *)words, STORE);
	return move_shifted(out, (char *)words, shift, before, STORE);
}

AVX2 static uint64_t move_past(void *out, uint64_t *words, unsigned int shift,
			       uint64_t before)
{
	if (!shift)
		return move_aligned(out, (char *)words, PAST);
	return move_shifted(out, (char *)words, shift, before, PAST);
}

AVX2 static uint64_t move_or(void *out, uint64_t *words, unsigned int shift)
{
	if (!shift)
		return move_aligned(out, (char *)words, OR);
	return move_shifted(out, (char *)words, shift, 0, OR);
}

/*
 * The words before come from registers: a load that straddles two stores waits
 * for both to leave the store buffer, behind all that goes past the cache.
 */
INLINE void put_way(char *out, const uint64_t *line, unsigned int shift,
		    uint64_t before, enum way way)
{
	__m256i low = load(line);
	__m256i high = load(line + 4);

	if (shift) {
		struct shift by = shift_by(shift);
		__m256i first = _mm256_set1_epi64x((long long)before);
		__m256i low_up = _mm256_permute4x64_epi64(low, 0x93);
		__m256i high_up = _mm256_permute4x64_epi64(high, 0x93);

		low = funnel(low, _mm256_blend_epi32(low_up, first, 0x03), by);
		high = funnel(high, _mm256_blend_epi32(high_up, low_up, 0x03),
			      by);
	}
	emit(out, low, way);
	emit(out + 32, high, way);
}

AVX2 static void put(void *out, const uint64_t *line, unsigned int shift,
		     uint64_t before)
{
	put_way(out, line, shift, before, STORE);
}

AVX2 static void put_past(void *out, const uint64_t *line, unsigned int shift,
			  uint64_t before)
{
	put_way(out, line, shift, before, PAST);
}

AVX2 static void put_or(char *out, int64_t base, const uint64_t *at,
			const uint64_t *lines, size_t n, unsigned int shift)
{
	for (size_t i = 0; i < n; i++, lines += VFE_LINE_WORDS) {
		char *to = out + (base + (int64_t)at[i]) * 8;

		put_way(to, lines, shift, 0, OR);
		if (!shift)
			continue;
		uint64_t carry = lines[VFE_LINE_WORDS - 1] >> (64 - shift);

		if (carry)
			vfe_store(to, VFE_LINE_WORDS,
				  vfe_load(to, VFE_LINE_WORDS) | carry);
	}
}

AVX2 static void zero_past(void *out, size_t nbytes)
{
	char *to = out;
	size_t head = (size_t)(-(uintptr_t)to & 31);

	if (head + LINE_BYTES > nbytes) {
		memset(to, 0, nbytes);
		return;
	}
	size_t end = head + ((nbytes - head) & ~(size_t)31);

	/* Ordinary stores only where they must be: each fetches its line. */
	if (head)
		memset(to, 0, head);
	for (size_t at = head; at < end; at += 32)
		_mm256_stream_si256((__m256i *)(to + at),
				    _mm256_setzero_si256());
	if (end < nbytes)
		memset(to + end, 0, nbytes - end);
}

static void drain(void)
{
	_mm_sfence();
}

AVX2 static uint64_t count(const uint64_t *words, uint64_t mask)
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

AVX2 static bool is_zero(const void *data, size_t nbytes)
{
	const char *from = data;

	for (size_t at = 0; at < nbytes; at += LINE_BYTES) {
		__m256i any =
			_mm256_or_si256(load(from + at), load(from + at + 32));

		if (!_mm256_testz_si256(any, any))
			return false;
	}
	return true;
}

const struct vfe_ops *vfe_ops_avx2(void)
{
	static const struct vfe_ops avx2 = {
		.take = take,
		.move = move,
		.move_past = move_past,
		.move_or = move_or,
		.put = put,
		.put_past = put_past,
		.put_or = put_or,
		.zero_past = zero_past,
		.drain = drain,
		.count = count,
		.is_zero = is_zero,
	};

	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx2") ||
	    !__builtin_cpu_supports("popcnt"))
		return NULL;
	return &avx2;
}

#else

const struct vfe_ops *vfe_ops_avx2(void)
{
	return NULL;
}

#endif
