/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The IOVA index against a list, DMA at the edges of mappings and of numbers,
 * and the dirty log; for the sanitizers, beside the same from Python.
 */
#include "vfe_dma.h"
#include "vfe_ledger.h"

#include "test_util.h"

#define PGSHIFT	 12
#define MAPPINGS 2000
#define STEPS	 20000

static struct vfe_mapping mapping_of(uint64_t number)
{
	return (struct vfe_mapping){
		.iova = number * 3 << PGSHIFT,
		.last = (number * 3 << PGSHIFT) + 8191,
		.prot = VFE_PROT_READ | VFE_PROT_WRITE,
	};
}

static void check_found(const struct vfe_index *index, uint64_t number,
			bool present)
{
	struct vfe_mapping mapping = mapping_of(number);
	struct vfe_mapping found;

	CHECK(vfe_index_find(index, mapping.iova + 5000, &found) == present);
	CHECK(!present ||
	      (found.iova == mapping.iova && found.last == mapping.last));
	CHECK(!vfe_index_find(index, mapping.last + 1, &found));
}

static void test_index(uint64_t seed)
{
	struct vfe_index *index = vfe_index_create(PGSHIFT);
	bool *present = get_memory(MAPPINGS);
	size_t count = 0;

	CHECK(index);
	for (int i = 0; i < STEPS; i++) {
		uint64_t number = pick(&seed, MAPPINGS);
		struct vfe_mapping mapping = mapping_of(number);

		if (pick(&seed, (uint64_t)STEPS) > (uint64_t)i) {
			CHECK(vfe_index_insert(index, &mapping) ==
			      present[number]);
			present[number] = true;
		} else {
			CHECK(vfe_index_remove(index, mapping.iova) ==
			      present[number]);
			present[number] = false;
		}
		check_found(index, number, present[number]);
	}
	for (uint64_t number = 0; number < MAPPINGS; number++) {
		check_found(index, number, present[number]);
		count += present[number];
	}
	CHECK(index->count == count);
	vfe_index_destroy(index);
	free(present);
}

static int insert(struct vfe_index *index, uint64_t iova, uint64_t last)
{
	struct vfe_mapping mapping = { .iova = iova, .last = last };

	return vfe_index_insert(index, &mapping);
}

static void test_edges_of_numbers(void)
{
	struct vfe_index *index = vfe_index_create(PGSHIFT);
	struct vfe_bitmap *bitmap = vfe_bitmap_create(2, VFE_ISA_BEST);

	CHECK(insert(index, 1, 0) == 1);
	CHECK(insert(index, UINT64_MAX - 8191, UINT64_MAX) == 0);
	CHECK(insert(index, UINT64_MAX, UINT64_MAX) == 1);
	CHECK(insert(index, 0, UINT64_MAX) == 1);
	CHECK(insert(index, 0, 0) == 0);
	CHECK(insert(index, 0, UINT64_MAX - 8192) == 1);
	CHECK(insert(index, 1, UINT64_MAX - 8192) == 0);
	CHECK(vfe_index_set_bitmap(index, UINT64_MAX - 8191, bitmap) == 0);
	CHECK(vfe_index_set_bitmap(index, 1, bitmap) == 1);
	CHECK(vfe_index_set_bitmap(index, 2, bitmap) == -1);
	struct vfe_mapping found;

	CHECK(vfe_index_find(index, UINT64_MAX, &found));
	CHECK(found.last == UINT64_MAX);
	CHECK(vfe_index_remove(index, 1) && !vfe_index_remove(index, 1));
	vfe_index_destroy(index);
	vfe_bitmap_destroy(bitmap);
}

/** A mapping of two pages at the end of the address space. */
struct top {
	struct vfe_index *index;
	struct vfe_bitmap *bitmap;
	char *ram;
	char *local; /* 100 bytes */
};

static enum vfe_dma_status one(struct top *top, enum vfe_dma_op op,
			       uint64_t iova, uint64_t size, uint64_t local)
{
	struct vfe_dma dma = { iova, size, local, op, 77 };
	size_t done = vfe_dma_batch(top->index, NULL, &dma, 1, top->local, 100);

	CHECK(done == (dma.status == VFE_DMA_DONE));
	return dma.status;
}

static void test_edges_of_dma(void)
{
	uint64_t base = UINT64_MAX - 8191;
	struct top top = {
		.index = vfe_index_create(PGSHIFT),
		.bitmap = vfe_bitmap_create(2, VFE_ISA_BEST),
		.ram = get_memory(8192),
		.local = get_memory(100),
	};
	struct vfe_mapping mapping = { base, UINT64_MAX, top.ram, top.bitmap,
				       VFE_PROT_READ | VFE_PROT_WRITE };

	CHECK(vfe_index_insert(top.index, &mapping) == 0);
	memset(top.local, 'x', 100);
	CHECK(one(&top, VFE_DMA_WRITE, UINT64_MAX, 1, 99) == VFE_DMA_DONE);
	CHECK(top.ram[8191] == 'x' && vfe_test(top.bitmap, 1));
	CHECK(!vfe_test(top.bitmap, 0));
	CHECK(one(&top, VFE_DMA_WRITE, UINT64_MAX, 2, 0) == VFE_DMA_SLOW);
	CHECK(one(&top, VFE_DMA_WRITE, base - 1, 2, 0) == VFE_DMA_SLOW);
	CHECK(one(&top, VFE_DMA_WRITE, base, 0, 0) == VFE_DMA_SLOW);
	CHECK(one(&top, VFE_DMA_WRITE, base, 100, 1) == VFE_DMA_BAD);
	CHECK(one(&top, VFE_DMA_WRITE, base, UINT64_MAX, 0) == VFE_DMA_BAD);
	CHECK(one(&top, VFE_DMA_READ, base, 2, UINT64_MAX) == VFE_DMA_BAD);
	CHECK(one(&top, 9, base, 1, 0) == VFE_DMA_BAD);
	CHECK(one(&top, VFE_DMA_HARDWARE_WRITE, base, 1, 0) == VFE_DMA_DONE);
	CHECK(one(&top, VFE_DMA_HIDDEN_WRITE, base, 1, 0) == VFE_DMA_DONE);
	CHECK(vfe_count(top.bitmap) == 1);
	CHECK(one(&top, VFE_DMA_WRITE, base + 4090, 10, 0) == VFE_DMA_DONE);
	CHECK(vfe_count(top.bitmap) == 2);
	CHECK(one(&top, VFE_DMA_READ, base + 8092, 100, 0) == VFE_DMA_DONE);
	CHECK(top.local[0] == 0 && top.local[99] == 'x');
	vfe_index_destroy(top.index);
	vfe_bitmap_destroy(top.bitmap);
	free(top.ram);
	free(top.local);
}

static void test_log(void)
{
	struct vfe_log_range ranges[] = {
		{ 0x1000, 0x2fff, vfe_bitmap_create(2, VFE_ISA_BEST) },
		{ UINT64_MAX - 99, UINT64_MAX,
		  vfe_bitmap_create(1, VFE_ISA_BEST) },
	};
	struct vfe_log *log = vfe_log_create(ranges, 2, PGSHIFT);

	CHECK(log);
	vfe_log_mark(log, 0, 0xfff);
	vfe_log_mark(log, 0x3000, UINT64_MAX - 100);
	CHECK(!vfe_count(ranges[0].bitmap) && !vfe_count(ranges[1].bitmap));
	vfe_log_mark(log, 0x2fff, UINT64_MAX);
	CHECK(vfe_test(ranges[0].bitmap, 1) && vfe_test(ranges[1].bitmap, 0));
	CHECK(vfe_count(ranges[0].bitmap) == 1);
	vfe_log_destroy(log);
	ranges[1].iova = 0x2fff;
	CHECK(!vfe_log_create(ranges, 2, PGSHIFT));
	ranges[0].last = 0x3000;
	CHECK(!vfe_log_create(ranges, 1, PGSHIFT));
	vfe_bitmap_destroy(ranges[0].bitmap);
	vfe_bitmap_destroy(ranges[1].bitmap);
}

#define RING 4

static void test_ledger(void)
{
	struct vfe_log_range range = { 0x1000, 0x4fff,
				       vfe_bitmap_create(4, VFE_ISA_BEST) };
	struct vfe_log *log = vfe_log_create(&range, 1, PGSHIFT);
	struct vfe_ledger *ledger = vfe_ledger_create(log, RING);
	struct vfe_written out[2 * RING];
	struct vfe_dma batch[] = {
		{ .iova = 0x1000, .size = 8, .op = VFE_DMA_READ },
		{ .iova = 0x2000, .size = 8, .op = VFE_DMA_HIDDEN_WRITE },
		{ .iova = 0x3000,
		  .size = 8,
		  .op = VFE_DMA_WRITE,
		  .status = VFE_DMA_SLOW },
		{ .iova = 0x4000,
		  .size = 8,
		  .op = VFE_DMA_WRITE,
		  .status = VFE_DMA_BAD },
		{ .iova = 0x4000, .size = 0, .op = VFE_DMA_WRITE },
	};

	CHECK(ledger);
	vfe_ledger_note_batch(ledger, batch, 5, false);
	CHECK(ledger->writes == 2 && !ledger->stopped);
	CHECK(vfe_count(range.bitmap) == 2 && vfe_test(range.bitmap, 1) &&
	      vfe_test(range.bitmap, 2));
	vfe_ledger_note(ledger, UINT64_MAX, UINT64_MAX, true);
	vfe_ledger_note(ledger, 0x2fff, UINT64_MAX, true);
	CHECK(vfe_count(range.bitmap) == 3 && vfe_test(range.bitmap, 3));
	CHECK(vfe_ledger_since(ledger, 0, false, out, 2 * RING) == 4);
	CHECK(vfe_ledger_since(ledger, 0, true, out, 2 * RING) == 2);
	for (int i = 0; i < 3; i++)
		vfe_ledger_note(ledger, 0x1000, 1, i == 1);
	CHECK(ledger->writes == 7 && ledger->stopped == 3);
	CHECK(vfe_ledger_since(ledger, 0, false, out, 2 * RING) == RING);
	CHECK(out[0].seq == 4 && out[RING - 1].seq == 7);
	CHECK(out[RING - 1].when >= out[0].when);
	CHECK(vfe_ledger_since(ledger, 5, false, out, 1) == 1);
	CHECK(out[0].seq == 6);
	CHECK(!vfe_ledger_since(ledger, UINT64_MAX, false, out, 1));
	vfe_ledger_destroy(ledger);
	vfe_log_destroy(log);
	vfe_bitmap_destroy(range.bitmap);
}

int main(void)
{
	for (uint64_t seed = 1; seed < 6; seed++)
		test_index(seed * 104729);
	test_edges_of_numbers();
	test_edges_of_dma();
	test_log();
	test_ledger();
	return 0;
}
