/* SPDX-License-Identifier: MIT */
/*
 * The inner loops with AVX2. Words of the bitmap are moved 32 bytes at a time
 * while the chunk's gate is held: what a writer does to them meanwhile, it
 * does again (vfe_bitmap.h).
 */
#include "vfe_ops.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,popcnt")))

#define LINE_BYTES  64
#define CHUNK_BYTES ((size_t)VFE_CHUNK_WORDS * 8)

AVX2 static inline __m256i load(const void *from)
{
	return _mm256_loadu_si256((const __m256i *)from);
}

AVX2 static inline void store(void *to, __m256i value)
{
	_mm256_storeu_si256((__m256i *)to, value);
}

/* Past the cache where alignment allows; malloc() gives 16 bytes. */
AVX2 static inline void stream(char *to, __m256i value)
{
	if (((uintptr_t)to & 31) == 0) {
		_mm256_stream_si256((__m256i *)to, value);
		return;
	}
	_mm_stream_si128((__m128i *)to, _mm256_castsi256_si128(value));
	_mm_stream_si128((__m128i *)(to + 16),
			 _mm256_extracti128_si256(value, 1));
}

AVX2 static inline void move_line(char *out, char *words)
{
	__m256i low = load(words);
	__m256i high = load(words + 32);

	store(words, _mm256_setzero_si256());
	store(words + 32, _mm256_setzero_si256());
	store(out, low);
	store(out + 32, high);
}

AVX2 static void move(void *out, uint64_t *words, uint64_t mask)
{
	char *to = out;
	char *from = (char *)words;

	if (mask == UINT64_MAX) {
		for (size_t at = 0; at < CHUNK_BYTES; at += LINE_BYTES)
			move_line(to + at, from + at);
		return;
	}
	memset(to, 0, CHUNK_BYTES);
	for (; mask; mask &= mask - 1) {
		size_t at = (size_t)__builtin_ctzll(mask) * LINE_BYTES;

		move_line(to + at, from + at);
	}
}

AVX2 static void stream_zeros(char *out, size_t nbytes)
{
	for (size_t at = 0; at < nbytes; at += 32)
		stream(out + at, _mm256_setzero_si256());
}

AVX2 static void move_past(void *out, uint64_t *words, uint64_t mask)
{
	char *to = out;
	char *from = (char *)words;
	size_t done = 0;

	if ((uintptr_t)out & 15) {
		move(out, words, mask);
		return;
	}
	for (; mask; mask &= mask - 1) {
		size_t at = (size_t)__builtin_ctzll(mask) * LINE_BYTES;
		__m256i low = load(from + at);
		__m256i high = load(from + at + 32);

		stream_zeros(to + done, at - done);
		store(from + at, _mm256_setzero_si256());
		store(from + at + 32, _mm256_setzero_si256());
		stream(to + at, low);
		stream(to + at + 32, high);
		done = at + LINE_BYTES;
	}
	stream_zeros(to + done, CHUNK_BYTES - done);
}

AVX2 static inline void or_half(char *out, char *words)
{
	__m256i bits = load(words);

	store(words, _mm256_setzero_si256());
	store(out, _mm256_or_si256(load(out), bits));
}

AVX2 static void move_or(void *out, uint64_t *words, uint64_t mask)
{
	for (; mask; mask &= mask - 1) {
		size_t at = (size_t)__builtin_ctzll(mask) * LINE_BYTES;

		or_half((char *)out + at, (char *)words + at);
		or_half((char *)out + at + 32, (char *)words + at + 32);
	}
}

AVX2 static inline __m256i funnel(const uint64_t *words, __m128i left,
				  __m128i right)
{
	return _mm256_or_si256(_mm256_sll_epi64(load(words), left),
			       _mm256_srl_epi64(load(words - 1), right));
}

/* A count of 64 shifts everything out, so shift 0 is no special case. */
AVX2 static void shift(void *out, const uint64_t *words, size_t nwords,
		       unsigned int by)
{
	__m128i left = _mm_cvtsi32_si128((int)by);
	__m128i right = _mm_cvtsi32_si128((int)(64 - by));
	size_t whole = nwords & ~(size_t)3;

	for (size_t i = 0; i < whole; i += 4)
		store((char *)out + i * 8, funnel(&words[i], left, right));
	if (whole < nwords)
		vfe_ops_portable()->shift((char *)out + whole * 8,
					  &words[whole], nwords - whole, by);
}

AVX2 static void shift_or(void *out, const uint64_t *words, size_t nwords,
			  unsigned int by)
{
	__m128i left = _mm_cvtsi32_si128((int)by);
	__m128i right = _mm_cvtsi32_si128((int)(64 - by));
	size_t whole = nwords & ~(size_t)3;

	for (size_t i = 0; i < whole; i += 4) {
		char *to = (char *)out + i * 8;

		store(to, _mm256_or_si256(load(to),
					  funnel(&words[i], left, right)));
	}
	if (whole < nwords)
		vfe_ops_portable()->shift_or((char *)out + whole * 8,
					     &words[whole], nwords - whole, by);
}

AVX2 static void zero_past(void *out, size_t nbytes)
{
	char *to = out;
	size_t head = (size_t)(-(uintptr_t)to & 31);

	if (nbytes < LINE_BYTES) {
		memset(to, 0, nbytes);
		return;
	}
	size_t body = (nbytes - head) & ~(size_t)31;

	memset(to, 0, head);
	stream_zeros(to + head, body);
	memset(to + head + body, 0, nbytes - head - body);
}

static void drain(void)
{
	_mm_sfence();
}

AVX2 static uint64_t count(const uint64_t *words, size_t nwords)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < nwords; i++)
		sum += (uint64_t)__builtin_popcountll(
			__atomic_load_n(&words[i], __ATOMIC_RELAXED));
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
		.move = move,
		.move_past = move_past,
		.move_or = move_or,
		.shift = shift,
		.shift_or = shift_or,
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
