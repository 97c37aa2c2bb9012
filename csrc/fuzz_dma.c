/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The IOVA index, batches of DMA and the dirty log, against a list of mappings
 * that is searched from the beginning, and bytes that are copied one by one.
 */
#include "fuzz.h"
#include "vfe_dma.h"

#define MAX_MAPPINGS 64
#define MAX_STEPS    64
#define MAX_BATCH    40
#define LOCAL	     8192
#define MAX_BYTES    16384
#define RANGES	     2

struct mapping {
	struct vfe_mapping fast;
	unsigned char *bytes; /* what the model has where fast.host is */
	bool *dirty;
	uint64_t npages;
};

struct range {
	struct vfe_log_range fast;
	bool *dirty;
};

struct world {
	struct fuzz_input *input;
	struct vfe_index *index;
	struct mapping mappings[MAX_MAPPINGS];
	size_t count;
	struct range ranges[RANGES];
	struct vfe_log *log;
	unsigned int pgshift;
	unsigned char local[LOCAL];
	unsigned char model_local[LOCAL];
};

/* Addresses are few, so that things meet; some are at the end of numbers. */
static uint64_t any_iova(struct world *world)
{
	uint64_t low = fuzz_below(world->input, 1 << 16);

	return fuzz_below(world->input, 8) ? low : UINT64_MAX - low;
}

static struct mapping *find(struct world *world, uint64_t iova)
{
	for (size_t i = 0; i < world->count; i++) {
		struct vfe_mapping *fast = &world->mappings[i].fast;

		if (fast->iova <= iova && iova <= fast->last)
			return &world->mappings[i];
	}
	return NULL;
}

static bool overlaps(const struct world *world, uint64_t iova, uint64_t last)
{
	for (size_t i = 0; i < world->count; i++) {
		const struct vfe_mapping *fast = &world->mappings[i].fast;

		if (fast->iova <= last && iova <= fast->last)
			return true;
	}
	return false;
}

static void drop(struct mapping *mapping)
{
	vfe_bitmap_destroy(mapping->fast.bitmap);
	free(mapping->fast.host);
	free(mapping->bytes);
	free(mapping->dirty);
}

static void step_insert(struct world *world)
{
	uint64_t iova = any_iova(world);
	uint64_t size = 1 + fuzz_below(world->input, MAX_BYTES);
	uint64_t kind = fuzz_number(world->input, 1);
	uint64_t npages = ((size - 1) >> world->pgshift) + 1;
	uint64_t nbits = npages - (kind >> 6 == 3 && npages > 1);
	struct mapping made = {
		.fast = { .iova = iova,
			  .last = iova + size - 1,
			  .prot = (uint32_t)kind & 3 },
		.npages = npages,
	};

	if (kind & 4) {
		made.fast.host = fuzz_memory(size);
		made.bytes = fuzz_memory(size);
	}
	if (kind & 8) {
		made.fast.bitmap = vfe_bitmap_create(nbits, VFE_ISA_BEST);
		made.dirty = fuzz_memory(npages);
	}
	bool refused = made.fast.last < iova ||
		       overlaps(world, iova, made.fast.last) ||
		       (made.fast.bitmap && nbits < npages);

	if (!refused && world->count == MAX_MAPPINGS) {
		drop(&made);
		return;
	}
	FUZZ_CHECK(vfe_index_insert(world->index, &made.fast) == refused);
	if (refused)
		drop(&made);
	else
		world->mappings[world->count++] = made;
}

static void step_remove(struct world *world)
{
	uint64_t iova = any_iova(world);

	if (world->count && fuzz_below(world->input, 4))
		iova = world->mappings[iova % world->count].fast.iova;
	struct mapping *mapping = find(world, iova);
	bool starts = mapping && mapping->fast.iova == iova;

	FUZZ_CHECK(vfe_index_remove(world->index, iova) == starts);
	if (!starts)
		return;
	drop(mapping);
	*mapping = world->mappings[--world->count];
}

static void step_find(struct world *world)
{
	uint64_t iova = any_iova(world);
	struct mapping *mapping = find(world, iova);
	struct vfe_mapping found;

	FUZZ_CHECK(vfe_index_find(world->index, iova, &found) == !!mapping);
	if (!mapping)
		return;
	FUZZ_CHECK(found.iova == mapping->fast.iova &&
		   found.last == mapping->fast.last &&
		   found.host == mapping->fast.host &&
		   found.bitmap == mapping->fast.bitmap &&
		   found.prot == mapping->fast.prot);
}

static void step_set_bitmap(struct world *world)
{
	uint64_t iova = any_iova(world);

	if (world->count)
		iova = world->mappings[iova % world->count].fast.iova;
	struct mapping *mapping = find(world, iova);
	int expected = mapping && mapping->fast.iova == iova ? 0 : -1;

	FUZZ_CHECK(vfe_index_set_bitmap(world->index, iova, NULL) == expected);
	if (expected)
		return;
	vfe_bitmap_destroy(mapping->fast.bitmap);
	free(mapping->dirty);
	mapping->fast.bitmap = NULL;
	mapping->dirty = NULL;
}

static void mark_ranges(struct world *world, uint64_t iova, uint64_t last)
{
	for (size_t i = 0; i < RANGES; i++) {
		struct range *range = &world->ranges[i];
		uint64_t page = (uint64_t)1 << world->pgshift;

		if (iova > range->fast.last || last < range->fast.iova)
			continue;
		uint64_t from =
			iova > range->fast.iova ? iova : range->fast.iova;
		uint64_t to = last < range->fast.last ? last : range->fast.last;

		from -= range->fast.iova;
		to -= range->fast.iova;
		for (from &= ~(page - 1); from <= to; from += page)
			range->dirty[from >> world->pgshift] = true;
	}
}

static enum vfe_dma_status transfer(struct world *world,
				    const struct vfe_dma *dma)
{
	if (dma->op > VFE_DMA_HIDDEN_WRITE || dma->local > LOCAL ||
	    dma->size > LOCAL - dma->local)
		return VFE_DMA_BAD;
	struct mapping *mapping = find(world, dma->iova);

	if (!dma->size || !mapping || !mapping->bytes ||
	    dma->size > mapping->fast.last - dma->iova + 1)
		return VFE_DMA_SLOW;
	bool write = dma->op != VFE_DMA_READ;

	if ((write && !(mapping->fast.prot & VFE_PROT_WRITE)) ||
	    (dma->op != VFE_DMA_HARDWARE_WRITE &&
	     !(mapping->fast.prot & VFE_PROT_READ)))
		return VFE_DMA_SLOW;
	uint64_t at = dma->iova - mapping->fast.iova;

	for (uint64_t i = 0; i < dma->size; i++) {
		unsigned char *local = &world->model_local[dma->local + i];

		if (!write) {
			*local = mapping->bytes[at + i];
			continue;
		}
		mapping->bytes[at + i] = *local;
		if (mapping->dirty && dma->op == VFE_DMA_WRITE)
			mapping->dirty[(at + i) >> world->pgshift] = true;
	}
	if (dma->op == VFE_DMA_WRITE || dma->op == VFE_DMA_HARDWARE_WRITE)
		mark_ranges(world, dma->iova, dma->iova + dma->size - 1);
	return VFE_DMA_DONE;
}

static void any_transfer(struct world *world, struct vfe_dma *dma)
{
	struct fuzz_input *input = world->input;
	uint64_t kind = fuzz_number(input, 1);

	dma->iova = any_iova(world);
	dma->size = fuzz_below(input, kind & 64 ? MAX_BYTES : 64);
	dma->local = fuzz_below(input, LOCAL + 2);
	dma->op = (uint32_t)(kind & 7);
	if (world->count && kind & 8) {
		const struct vfe_mapping *near =
			&world->mappings[dma->iova % world->count].fast;

		dma->iova = kind & 16 ? near->iova + dma->size % 50
				      : near->last + 1 - dma->size;
	}
	if (kind >= 250)
		dma->size = UINT64_MAX - dma->size;
}

static void step_batch(struct world *world)
{
	size_t count = (size_t)fuzz_below(world->input, MAX_BATCH);
	struct vfe_dma *batch = fuzz_memory(count * sizeof(*batch));
	enum vfe_dma_status *expected = fuzz_memory(count * sizeof(*expected));
	size_t done = 0;

	for (size_t i = 0; i < count; i++)
		any_transfer(world, &batch[i]);
	/* The fast code copies a stage at a time, in order: so does this. */
	for (size_t i = 0; i < count; i++) {
		expected[i] = transfer(world, &batch[i]);
		done += expected[i] == VFE_DMA_DONE;
	}
	FUZZ_CHECK(vfe_dma_batch(world->index, world->log, batch, count,
				 (char *)world->local, LOCAL) == done);
	for (size_t i = 0; i < count; i++)
		FUZZ_CHECK(batch[i].status == expected[i]);
	FUZZ_CHECK(memcmp(world->local, world->model_local, LOCAL) == 0);
	free(expected);
	free(batch);
}

static void step_log(struct world *world)
{
	uint64_t iova = any_iova(world);
	uint64_t last = iova + fuzz_below(world->input, MAX_BYTES);

	if (last < iova)
		last = UINT64_MAX;
	vfe_log_mark(world->log, iova, last);
	mark_ranges(world, iova, last);
}

static void check_same(const struct world *world)
{
	FUZZ_CHECK(world->index->count == world->count);
	for (size_t i = 0; i < world->count; i++) {
		const struct mapping *mapping = &world->mappings[i];
		size_t size =
			(size_t)(mapping->fast.last - mapping->fast.iova + 1);

		FUZZ_CHECK(!mapping->bytes ||
			   memcmp(mapping->fast.host, mapping->bytes, size) ==
				   0);
		for (uint64_t page = 0;
		     mapping->dirty && page < mapping->npages; page++)
			FUZZ_CHECK(vfe_test(mapping->fast.bitmap, page) ==
				   mapping->dirty[page]);
	}
	for (size_t i = 0; i < RANGES; i++) {
		const struct range *range = &world->ranges[i];

		for (uint64_t page = 0; page < range->fast.bitmap->nbits;
		     page++)
			FUZZ_CHECK(vfe_test(range->fast.bitmap, page) ==
				   range->dirty[page]);
	}
}

/* Two ranges apart; what is out of order, or too small, is refused. */
static void begin(struct world *world)
{
	static const uint64_t starts[RANGES] = { 0x1000, 0x9000 };
	struct vfe_log_range fast[RANGES];

	for (size_t i = 0; i < RANGES; i++) {
		uint64_t size = 1 + fuzz_below(world->input, 0x4000);
		uint64_t npages = ((size - 1) >> world->pgshift) + 1;

		fast[i] = (struct vfe_log_range){
			.iova = starts[i],
			.last = starts[i] + size - 1,
			.bitmap = vfe_bitmap_create(npages, VFE_ISA_BEST),
		};
		world->ranges[i].fast = fast[i];
		world->ranges[i].dirty = fuzz_memory(npages);
	}
	struct vfe_log_range wrong[RANGES] = { fast[1], fast[0] };

	FUZZ_CHECK(!vfe_log_create(wrong, RANGES, world->pgshift));
	wrong[0] = fast[0];
	wrong[0].last += fast[0].bitmap->nbits << world->pgshift;
	FUZZ_CHECK(!vfe_log_create(wrong, 1, world->pgshift));
	world->log = vfe_log_create(fast, RANGES, world->pgshift);
	world->index = vfe_index_create(world->pgshift);
	FUZZ_CHECK(world->log && world->index);
}

static void end(struct world *world)
{
	for (size_t i = 0; i < world->count; i++)
		drop(&world->mappings[i]);
	for (size_t i = 0; i < RANGES; i++) {
		vfe_bitmap_destroy(world->ranges[i].fast.bitmap);
		free(world->ranges[i].dirty);
	}
	vfe_log_destroy(world->log);
	vfe_index_destroy(world->index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const steps[])(struct world *) = {
		step_insert, step_insert,     step_insert, step_remove,
		step_find,   step_batch,      step_batch,  step_batch,
		step_log,    step_set_bitmap,
	};
	static struct world world;
	struct fuzz_input input = { .data = data, .left = size };

	memset(&world, 0, sizeof(world));
	world.input = &input;
	world.pgshift = fuzz_number(&input, 1) & 1 ? 12 : 6;
	for (size_t i = 0; i < LOCAL; i++)
		world.local[i] = (unsigned char)(i * 31 + 7);
	memcpy(world.model_local, world.local, LOCAL);
	begin(&world);
	for (int i = 0; i < MAX_STEPS && input.left; i++)
		steps[fuzz_below(&input, sizeof(steps) / sizeof(steps[0]))](
			&world);
	check_same(&world);
	end(&world);
	return 0;
}
