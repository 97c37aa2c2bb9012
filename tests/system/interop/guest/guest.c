/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_PFN	((1ull << 55) - 1)
#define COMMAND_OFFSET	4
#define COMMAND_BITS	6 /* memory space, bus master */

void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("FAIL ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	exit(1);
}

uint64_t number(const char *text)
{
	char *end;

	errno = 0;
	uint64_t value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		fail("%s is not a number", text);
	return value;
}

static int open_of(const char *bdf, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, file);
	int fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	return fd;
}

volatile void *map_bar(const char *bdf, int bar, size_t size)
{
	char file[16];
	uint16_t command;
	int config = open_of(bdf, "config");

	if (pread(config, &command, 2, COMMAND_OFFSET) != 2)
		fail("config of %s: %s", bdf, strerror(errno));
	command |= COMMAND_BITS;
	if (pwrite(config, &command, 2, COMMAND_OFFSET) != 2)
		fail("config of %s: %s", bdf, strerror(errno));
	close(config);

	snprintf(file, sizeof(file), "resource%d", bar);
	int fd = open_of(bdf, file);
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		fail("mmap of %s of %s: %s", file, bdf, strerror(errno));
	close(fd);
	return at;
}

void *huge_page(uint64_t *physical)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE;
	void *at = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (at == MAP_FAILED)
		fail("no huge page: %s", strerror(errno));
	memset(at, 0, HUGE_PAGE);
	if (mlock(at, HUGE_PAGE))
		fail("mlock: %s", strerror(errno));

	uint64_t entry;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) != 8)
		fail("pagemap: %s", strerror(errno));
	close(fd);
	if (!(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_PFN))
		fail("pagemap hides the frame: %#llx",
		     (unsigned long long)entry);
	*physical = (entry & PAGEMAP_PFN) * PAGE;
	return at;
}

struct engine engine_open(const char *bdf)
{
	struct engine engine = { map_bar(bdf, 0, ENGINE_BAR_SIZE) };

	if (engine_read(engine, ENGINE_ID) != ENGINE_ID_VALUE)
		fail("%s is no dma-engine: ID %#llx", bdf,
		     (unsigned long long)engine_read(engine, ENGINE_ID));
	return engine;
}

uint64_t engine_read(struct engine engine, size_t reg)
{
	return engine.bar[reg / 8];
}

void engine_write(struct engine engine, size_t reg, uint64_t value)
{
	engine.bar[reg / 8] = value;
}

int64_t engine_command(struct engine engine, uint64_t command, uint64_t arg0)
{
	engine_write(engine, ENGINE_ARG0, arg0);
	engine_write(engine, ENGINE_COMMAND, command);
	return (int64_t)engine_read(engine, ENGINE_RESULT);
}

const char *stamp_problem(const void *page, uint64_t iova, uint64_t device,
			  size_t size)
{
	struct stamp stamp;
	const unsigned char *bytes = page;

	memcpy(&stamp, page, sizeof(stamp));
	if (stamp.magic != ENGINE_STAMP_MAGIC)
		return "no stamp";
	if (stamp.device != device)
		return "another device's stamp";
	if (stamp.iova != iova)
		return "another page's stamp";
	for (size_t i = sizeof(stamp); i < size; i++)
		if (bytes[i] != (unsigned char)stamp.seq)
			return "torn bytes";
	return NULL;
}
