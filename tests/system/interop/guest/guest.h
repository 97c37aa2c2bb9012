/* SPDX-License-Identifier: MIT */
/*
 * What the guest's programs share: a PCI function's BAR, memory that a device
 * can reach, and the dma-engine behind both.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>

#include "engine_regs.h" /* made from vfioemu/abi/dma_engine.py */

#define PAGE	   4096ul
#define HUGE_PAGE  (2ul << 20)
#define HUGE_PAGES (HUGE_PAGE / PAGE)

/* What every write of the engine begins with. */
struct stamp {
	uint64_t magic;
	uint64_t device;
	uint64_t seq;
	uint64_t iova;
};

/* A register of the engine, whatever its BAR is reached by. */
struct engine {
	volatile uint64_t *bar;
};

/* Print a line that begins with "FAIL", and exit with status 1. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format,
							  ...);

/* strtoull() of a whole string, or fail. */
uint64_t number(const char *text);

/* The BAR of a PCI function that no driver has, mapped; enables memory and
 * bus mastering. */
volatile void *map_bar(const char *bdf, int bar, size_t size);

/* One huge page, zeroed, and where the guest has it physically. */
void *huge_page(uint64_t *physical);

struct engine engine_open(const char *bdf);
uint64_t engine_read(struct engine engine, size_t reg);
void engine_write(struct engine engine, size_t reg, uint64_t value);

/* Execute a command: what RESULT says. */
int64_t engine_command(struct engine engine, uint64_t command, uint64_t arg0);

/* NULL if `page`, which the device knows as `iova`, holds a write of `size`
 * bytes as the engine makes them, or else what is wrong with it. */
const char *stamp_problem(const void *page, uint64_t iova, uint64_t device,
			  size_t size);

#endif
