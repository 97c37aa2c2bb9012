/* SPDX-License-Identifier: MIT */
/**
 * @file dma.c
 * Have a dma-engine write pages of this guest's memory, by its BAR, and look
 * whether they are there, whole, and alone.
 *
 *   dma 0000:00:11.0 256
 */
#include "guest.h"

#include <stdio.h>

/* All of `count` pages hold writes of `size` bytes, and the next one nothing.
 */
static void check(const unsigned char *memory, uint64_t physical,
		  uint64_t device, size_t count, size_t size)
{
	for (size_t i = 0; i < count; i++) {
		const char *problem = stamp_problem(
			memory + i * PAGE, physical + i * PAGE, device, size);

		if (problem)
			fail("page %zu of %zu: %s", i, count, problem);
	}
	for (size_t i = 0; i < PAGE; i++)
		if (memory[count * PAGE + i])
			fail("byte %zu behind the area was written", i);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		fail("usage: dma BDF PAGES");
	size_t count = number(argv[2]);
	uint64_t physical;
	struct engine engine = engine_open(argv[1]);
	unsigned char *memory = huge_page(&physical);

	if (!count || count >= HUGE_PAGES)
		fail("1 to %lu pages", HUGE_PAGES - 1);
	engine_write(engine, ENGINE_CONTROL, 0);
	engine_write(engine, ENGINE_BASE, physical);
	engine_write(engine, ENGINE_SIZE, count * PAGE);
	engine_write(engine, ENGINE_PATTERN, 0);

	uint64_t device = engine_read(engine, ENGINE_DEVICE_ID);
	static const size_t sizes[] = { sizeof(struct stamp), PAGE };
	for (size_t i = 0; i < 2; i++) {
		engine_write(engine, ENGINE_WRITE_SIZE, sizes[i]);
		int64_t done =
			engine_command(engine, ENGINE_COMMAND_WRITE, count);

		if (done != (int64_t)count)
			fail("RESULT is %lld instead of %zu", (long long)done,
			     count);
		check(memory, physical, device, count, sizes[i]);
	}
	engine_write(engine, ENGINE_WRITE_SIZE, sizeof(struct stamp));
	printf("ok pages=%zu base=%#llx seq=%llu\n", count,
	       (unsigned long long)physical,
	       (unsigned long long)engine_read(engine, ENGINE_SEQ));
	return 0;
}
