/* SPDX-License-Identifier: MIT */
/**
 * @file ring.c
 * Keep a dma-engine writing into memory of this guest, and watch it from a
 * process in the background: no page may ever go back to an older write.
 *
 *   ring BDF PAGES RATE PATTERN    prints where the area is, and goes on
 *
 * With PATTERN 3 the engine takes the pages from its table, which this program
 * fills by the BAR page that is mapped, last page first.
 *
 * The watcher keeps what it sees in /tmp/ring-BDF, one line, replaced after
 * each round. It never writes to the area.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct watch {
	struct engine engine;
	const unsigned char *memory;
	uint64_t physical;
	uint64_t device;
	size_t count;
	uint64_t seen[HUGE_PAGES];
	uint64_t rounds;
	uint64_t written; /* pages that were written to at all */
	uint64_t stale;	  /* pages that went back */
	uint64_t foreign; /* pages with something else than a stamp */
	char file[64];
};

static void look(struct watch *watch)
{
	for (size_t i = 0; i < watch->count; i++) {
		const volatile struct stamp *stamp =
			(const volatile void *)(watch->memory + i * PAGE);
		uint64_t seq = stamp->seq;

		if (!seq && !watch->seen[i])
			continue; /* not written yet */
		watch->written += !watch->seen[i];
		/* A page's first write may be under way. */
		if (watch->seen[i] &&
		    (stamp->magic != ENGINE_STAMP_MAGIC ||
		     stamp->device != watch->device ||
		     stamp->iova != watch->physical + i * PAGE))
			watch->foreign++;
		if (seq < watch->seen[i])
			watch->stale++;
		watch->seen[i] = seq;
	}
	watch->rounds++;
}

static void tell(const struct watch *watch)
{
	char temporary[sizeof(watch->file) + 4];

	snprintf(temporary, sizeof(temporary), "%s.new", watch->file);
	FILE *file = fopen(temporary, "w");
	if (!file)
		exit(1);
	fprintf(file,
		"rounds=%llu written=%llu stale=%llu foreign=%llu seq=%llu failed=%llu\n",
		(unsigned long long)watch->rounds,
		(unsigned long long)watch->written,
		(unsigned long long)watch->stale,
		(unsigned long long)watch->foreign,
		(unsigned long long)engine_read(watch->engine, ENGINE_SEQ),
		(unsigned long long)engine_read(watch->engine, ENGINE_FAILED));
	if (fclose(file) || rename(temporary, watch->file))
		exit(1);
}

int main(int argc, char **argv)
{
	static struct watch watch;
	static const struct timespec pause = { 0, 100 * 1000 * 1000 };

	if (argc != 5)
		fail("usage: ring BDF PAGES RATE PATTERN");
	watch.engine = engine_open(argv[1]);
	watch.memory = huge_page(&watch.physical);
	watch.device = engine_read(watch.engine, ENGINE_DEVICE_ID);
	watch.count = number(argv[2]);
	if (!watch.count || watch.count > HUGE_PAGES)
		fail("1 to %lu pages", HUGE_PAGES);
	snprintf(watch.file, sizeof(watch.file), "/tmp/ring-%s", argv[1]);

	engine_write(watch.engine, ENGINE_CONTROL, 0);
	for (size_t i = 0; i < watch.count; i++)
		watch.engine.bar[ENGINE_RING_TABLE / 8 + i] =
			watch.physical + (watch.count - 1 - i) * PAGE;
	engine_write(watch.engine, ENGINE_BASE, watch.physical);
	engine_write(watch.engine, ENGINE_SIZE, watch.count * PAGE);
	engine_write(watch.engine, ENGINE_RATE, number(argv[3]));
	engine_write(watch.engine, ENGINE_PATTERN, number(argv[4]));
	engine_write(watch.engine, ENGINE_WRITE_SIZE, PAGE);
	engine_write(watch.engine, ENGINE_CONTROL, ENGINE_CONTROL_RUN);
	tell(&watch);

	printf("ok base=%#llx pages=%zu device=%#llx\n",
	       (unsigned long long)watch.physical, watch.count,
	       (unsigned long long)watch.device);
	fflush(stdout);
	if (daemon(0, 0))
		fail("daemon: %s", strerror(errno));
	for (;;) {
		look(&watch);
		tell(&watch);
		nanosleep(&pause, NULL);
	}
}
