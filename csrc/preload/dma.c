/* SPDX-License-Identifier: MIT */
/**
 * @file dma.c
 * Which memory was mapped for DMA, and what the daemon is told of it. What was
 * unmapped for DMA since is not known here: then the daemon has nothing to
 * keep.
 */
#include "dma.h"

#include <errno.h>
#include <sys/mman.h>

#include "call.h"
#include "lock.h"
#include "maps.h"
#include "process.h"
#include "sys.h"

#define SPANS 1024
#define PAGE  4096ul

struct span {
	uintptr_t start, end;
};

/** Wiped by a fork: a child's memory is mapped by nobody. */
struct spans {
	vfp_lock lock;
	unsigned int count;
	struct span list[SPANS]; /* ascending, with gaps between them */
};

static struct spans *spans;
_Atomic uintptr_t vfp_dma_low = UINTPTR_MAX, vfp_dma_high;
atomic_bool vfp_dma_seen;

bool vfp_dma_init(void)
{
	spans = vfp_wiped_memory(sizeof(*spans));
	return spans;
}

static int64_t tell(uint16_t type, const uint64_t arg[4], int fd)
{
	struct vfp_call call = {
		.msg = { .type = type,
			 .arg = { arg[0], arg[1], arg[2], arg[3] } },
		.token = -1,
		.out_fd = fd,
		.in_fd = -1,
	};
	int saved = errno;
	int64_t result = vfp_call(&call);

	errno = saved;
	return result;
}

static int64_t tell_hole(int fd, uint64_t offset, uint64_t size,
			 uint64_t address, bool undo)
{
	return tell(VFIOEMU_MEM_HOLE,
		    (const uint64_t[4]){ offset, size, address, undo }, fd);
}

static bool seen(void)
{
	return VFP_RARE(
		atomic_load_explicit(&vfp_dma_seen, memory_order_relaxed));
}

/* --- the spans --- */

static void drop(unsigned int at, unsigned int count)
{
	for (unsigned int i = at; i + count < spans->count; i++)
		spans->list[i] = spans->list[i + count];
	spans->count -= count;
}

/* Without room for another one, two neighbours become one: too much is told. */
static void make_room(void)
{
	unsigned int best = 0;

	for (unsigned int i = 0; i + 1 < spans->count; i++)
		if (spans->list[i + 1].start - spans->list[i].end <
		    spans->list[best + 1].start - spans->list[best].end)
			best = i;
	spans->list[best].end = spans->list[best + 1].end;
	drop(best + 1, 1);
}

static void add(uintptr_t start, uintptr_t end)
{
	unsigned int at = 0, last;

	if (spans->count == SPANS)
		make_room();
	while (at < spans->count && spans->list[at].end < start)
		at++;
	for (last = at; last < spans->count && spans->list[last].start <= end;
	     last++) {
		if (spans->list[last].start < start)
			start = spans->list[last].start;
		if (spans->list[last].end > end)
			end = spans->list[last].end;
	}
	if (last > at) {
		drop(at + 1, last - at - 1);
	} else {
		for (unsigned int i = spans->count; i > at; i--)
			spans->list[i] = spans->list[i - 1];
		spans->count++;
	}
	spans->list[at] = (struct span){ start, end };
}

/* It means something else from now on. */
static void take_out(uintptr_t start, uintptr_t end)
{
	for (unsigned int i = 0; i < spans->count;) {
		struct span *span = &spans->list[i];
		struct span old = *span;

		if (old.end <= start || old.start >= end) {
			i++;
			continue;
		}
		drop(i, 1);
		if (old.start < start)
			add(old.start, start);
		if (old.end > end)
			add(end, old.end);
		i = 0;
	}
}

static bool overlaps(uintptr_t start, uintptr_t end)
{
	for (unsigned int i = 0; i < spans->count; i++)
		if (spans->list[i].start < end && spans->list[i].end > start)
			return true;
	return false;
}

static uint64_t enter(void)
{
	uint64_t mask = vfp_signals_block();

	vfp_lock_take(&spans->lock);
	return mask;
}

static void leave(uint64_t mask)
{
	vfp_lock_release(&spans->lock);
	vfp_signals_restore(mask);
}

void vfp_dma_mapped(uint64_t address, uint64_t size)
{
	uintptr_t low = atomic_load(&vfp_dma_low), end;
	uintptr_t high = atomic_load(&vfp_dma_high);
	uint64_t mask;

	if (!size || __builtin_add_overflow(address, size, &end) ||
	    !vfp_process_is_ours())
		return;
	mask = enter();
	add(address, end);
	leave(mask);
	while (address < low &&
	       !atomic_compare_exchange_weak(&vfp_dma_low, &low, address))
		;
	while (end > high &&
	       !atomic_compare_exchange_weak(&vfp_dma_high, &high, end))
		;
	atomic_store(&vfp_dma_seen, true);
}

/* --- what goes --- */

static bool is_known(uintptr_t start, uintptr_t end)
{
	uint64_t mask = enter();
	bool known = overlaps(start, end);

	leave(mask);
	return known;
}

bool vfp_dma_leaves(uintptr_t address, size_t size, enum vfioemu_leaving how)
{
	uintptr_t start = address & ~(PAGE - 1), end;
	bool known;
	uint64_t mask;

	/* What is no page, or too much, the kernel refuses. */
	if (start != address || !size ||
	    __builtin_add_overflow(address, size, &end) || end > -PAGE ||
	    !vfp_process_is_ours())
		return false;
	end = (end + PAGE - 1) & ~(PAGE - 1);
	mask = enter();
	known = overlaps(start, end);
	if (known)
		take_out(start, end);
	leave(mask);
	/* If it was too much to be kept it has to be known again, too. */
	return known &&
	       tell(VFIOEMU_MEM_LEAVES,
		    (const uint64_t[4]){ start, end - start, (uint64_t)how },
		    -1) != 0;
}

void vfp_dma_returns(uintptr_t address, size_t size, uintptr_t to)
{
	size = (size + PAGE - 1) & ~(PAGE - 1);
	tell(VFIOEMU_MEM_RETURNS, (const uint64_t[4]){ address, size, to }, -1);
	vfp_dma_mapped(to, size);
}

/* --- madvise() --- */

/* MADV_DONTNEED and its like. A shared mapping loses nothing by it: its pages
 * are the file's. Of a huge page no part is given up. */
static int discard(const struct vfp_area *area, uintptr_t from, uintptr_t to,
		   int advice)
{
	uintptr_t gone = to - to % vfp_maps_page(area);
	bool kept = !area->of_file && gone > from &&
		    vfp_dma_leaves(from, gone - from, VFIOEMU_DISCARDED);
	long error = vfp_sys3(SYS_madvise, from, to - from, advice);

	if (error && kept)
		vfp_dma_returns(from, gone - from, from);
	return (int)error;
}

/* MADV_REMOVE: a hole in whatever file is mapped there. What is no window, as
 * its fd was closed, is at its address. */
static int punch(const struct vfp_area *area, uintptr_t from, uintptr_t to)
{
	uint64_t page = vfp_maps_page(area);
	uint64_t offset = area->offset + from - area->start;
	uint64_t end = offset + (to - from);
	uintptr_t shift = from - offset; /* what is there where in the file */
	bool hole, kept;
	int fd;

	/* Parts of huge pages are zeroed, and stay. */
	offset = (offset + page - 1) / page * page;
	end -= end % page;
	if (!area->of_file || offset >= end)
		return (int)vfp_sys3(SYS_madvise, from, to - from, MADV_REMOVE);
	fd = vfp_maps_fd(area);
	hole = tell_hole(fd, offset, end - offset, offset + shift, false) > 0;
	kept = vfp_dma_leaves(offset + shift, end - offset, VFIOEMU_DISCARDED);
	long error = vfp_sys3(SYS_madvise, from, to - from, MADV_REMOVE);

	if (error && hole)
		tell_hole(fd, offset, end - offset, offset + shift, true);
	if (error && kept)
		vfp_dma_returns(offset + shift, end - offset, offset + shift);
	return (int)error;
}

/* madvise_walk_vmas(): piece by piece, until one is refused; what was given up
 * before it is gone. Nothing is at some places: that is said at the end. */
static int advise_each(int maps, uintptr_t address, uintptr_t end, int advice)
{
	struct vfp_area area;
	int missing = 0;

	while (address < end) {
		if (!vfp_maps_find(maps, address, &area) || area.start >= end)
			return -ENOMEM;
		if (area.start > address) {
			missing = -ENOMEM;
			address = area.start;
		}
		uintptr_t to = area.end < end ? area.end : end;
		int error = advice == MADV_REMOVE
				    ? punch(&area, address, to)
				    : discard(&area, address, to, advice);

		if (error)
			return error;
		address = to;
	}
	return missing;
}

bool vfp_dma_advise_slow(uintptr_t address, size_t size, int advice,
			 int *result)
{
	uintptr_t end;
	int maps;

	if (advice != MADV_REMOVE && advice != MADV_DONTNEED &&
	    advice != VFP_DONTNEED_LOCKED && advice != VFP_GUARD_INSTALL)
		return false;
	if (address & (PAGE - 1) || __builtin_add_overflow(address, size, &end))
		return false;
	end = (end + PAGE - 1) & ~(PAGE - 1);
	/* A hole concerns whoever has mapped the file, where that may be. */
	if (advice != MADV_REMOVE &&
	    (!vfp_process_is_ours() || !is_known(address, end)))
		return false;
	maps = vfp_maps_open();
	if (maps < 0) {
		/* Nobody can tell what is there: it may all go. */
		bool kept = vfp_dma_leaves(address, size, VFIOEMU_DISCARDED);

		*result = (int)vfp_sys3(SYS_madvise, address, size, advice);
		if (*result && kept)
			vfp_dma_returns(address, size, address);
		return true;
	}
	*result = advise_each(maps, address, end, advice);
	vfp_sys1(SYS_close, maps);
	return true;
}

/* --- files --- */

bool vfp_dma_hole(int fd, uint64_t offset, uint64_t size, bool undo)
{
	uint64_t end;

	if (!seen() || fd < 0 || !size ||
	    __builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
		return false;
	/* Parts of pages are zeroed, and stay. */
	uint64_t page = vfp_maps_huge_file(fd);
	page = page ? page : PAGE;
	offset = (offset + page - 1) / page * page;
	end -= end % page;
	return offset < end && tell_hole(fd, offset, end - offset, 0, undo) > 0;
}

/* Private mappings of a file lose their own copies of pages, too, where it ends
 * (but not where it has a hole). */
static bool copies_go(const struct statx *file, uint64_t first, bool undo)
{
	uint64_t address = atomic_load(&vfp_dma_low);
	struct vfp_area area;
	bool left = false;
	int maps = vfp_maps_open();

	if (maps < 0)
		return false;
	while (vfp_maps_find(maps, address, &area) &&
	       area.start < atomic_load(&vfp_dma_high)) {
		uint64_t from = area.start;

		address = area.end;
		if (area.of_file || area.inode != file->stx_ino ||
		    area.major != file->stx_dev_major ||
		    area.minor != file->stx_dev_minor)
			continue;
		if (first > area.offset)
			from += first - area.offset;
		if (from >= area.end)
			continue;
		if (undo)
			vfp_dma_returns(from, area.end - from, from);
		else
			left |= vfp_dma_leaves(from, area.end - from,
					       VFIOEMU_DISCARDED);
	}
	vfp_sys1(SYS_close, maps);
	return left;
}

bool vfp_dma_truncates(int fd, uint64_t size, bool undo)
{
	const uint64_t most = INT64_MAX & ~(PAGE - 1);
	struct statx file;
	bool kept;

	if (!seen() || size > most ||
	    vfp_sys5(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_SIZE | STATX_INO,
		     &file) ||
	    (!undo && size >= file.stx_size))
		return false;
	/* Pages in the midst of which the file ends stay. */
	kept = vfp_dma_hole(fd, size, most - size, undo);
	return copies_go(&file, (size + PAGE - 1) & ~(PAGE - 1), undo) || kept;
}
