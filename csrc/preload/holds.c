/* SPDX-License-Identifier: MIT */
/**
 * @file holds.c
 * Which mappings hold which files. The table lies in memory that a fork copies,
 * with the mappings that it is about; its lock in memory that a fork wipes.
 */
#include "holds.h"

#include <errno.h>
#include <sys/mman.h>

#include "lock.h"
#include "own.h"
#include "process.h"
#include "sys.h"

#define AREAS 4096 /* pieces of mappings */
#define PAGE  4096ul

/** A file that something is mapped of. */
struct hold {
	uint64_t serial;
	unsigned int areas; /* of it; 0: free */
};

/** What is mapped. */
struct area {
	uintptr_t start, end; /* both 0: free */
	struct hold *hold;
	bool stays; /* a fork does not inherit it: MADV_DONTFORK */
};

static struct hold holds[VFP_HOLDS]; /* our fds: vfp_own_holds */
static struct area areas[AREAS];
static unsigned int used; /* of `areas`, free ones among them */
static vfp_lock *lock;
_Atomic uintptr_t vfp_held_low = UINTPTR_MAX, vfp_held_high;

bool vfp_holds_init(void)
{
	lock = vfp_wiped_memory(sizeof(*lock));
	return lock;
}

static struct vfp_known *known_of(const struct hold *hold)
{
	return &vfp_own_holds[hold - holds];
}

static int number_of(const struct hold *hold)
{
	return vfp_own_number(known_of(hold));
}

/* The hold on a file, made if need be; NULL if there is no room for one. */
static struct hold *hold_of(const struct vfp_file *file)
{
	struct hold *free = NULL;
	int fd;

	for (unsigned int i = 0; i < VFP_HOLDS; i++) {
		struct hold *hold = &holds[i];

		if (hold->areas && hold->serial == file->serial &&
		    number_of(hold) >= 0)
			return hold;
		if (!hold->areas && !free)
			free = hold;
	}
	if (!free)
		return NULL;
	fd = vfp_high_copy(file->fd);
	if (fd < 0)
		return NULL;
	free->serial = file->serial;
	vfp_own(known_of(free), fd, vfp_cookie(fd));
	return free;
}

static void let_go(struct hold *hold)
{
	int fd = number_of(hold);

	if (--hold->areas)
		return;
	atomic_store(&known_of(hold)->number, 0);
	if (fd >= 0)
		vfp_sys1(SYS_close, fd);
}

/* A piece more; false if there is no room: then nothing lets its hold go. */
static bool add(uintptr_t start, uintptr_t end, struct hold *hold, bool stays)
{
	uintptr_t low = atomic_load(&vfp_held_low);
	uintptr_t high = atomic_load(&vfp_held_high);
	unsigned int i = 0;

	while (i < used && areas[i].end)
		i++;
	if (i == AREAS)
		return false;
	if (i == used)
		used++;
	hold->areas++;
	areas[i] = (struct area){ start, end, hold, stays };
	if (start < low)
		atomic_store(&vfp_held_low, start);
	if (end > high)
		atomic_store(&vfp_held_high, end);
	return true;
}

static uintptr_t end_of(uintptr_t start, size_t size)
{
	uintptr_t end;

	if (__builtin_add_overflow(start, size + PAGE - 1, &end) || size > end)
		return UINTPTR_MAX & ~(PAGE - 1);
	return end & ~(PAGE - 1);
}

static struct area *overlapping(uintptr_t start, uintptr_t end)
{
	for (unsigned int i = 0; i < used; i++)
		if (areas[i].start < end && areas[i].end > start)
			return &areas[i];
	return NULL;
}

static void cut(uintptr_t start, uintptr_t end)
{
	for (unsigned int i = 0; i < used; i++) {
		struct area *area = &areas[i];
		uintptr_t behind = area->end;

		if (area->start >= end || behind <= start)
			continue;
		if (area->start < start) {
			/* Without room for the rest we hold for too long. */
			if (behind > end &&
			    !add(end, behind, area->hold, area->stays))
				continue;
			area->end = start;
		} else if (behind > end) {
			area->start = end;
		} else {
			area->end = area->start = 0;
			let_go(area->hold);
		}
	}
}

int64_t vfp_hold_map(const struct vfp_file *file, void *address, size_t size,
		     int prot, int flags, int fd, uint64_t start)
{
	uint64_t mask = vfp_signals_block();
	struct hold *hold = NULL;
	long result;

	/* After vfork() the mapping is the parent's, and its fds are not ours.
	 */
	bool ours = vfp_process_is_ours();

	if (ours)
		vfp_lock_take(lock);
	result = vfp_sys6(SYS_mmap, VFP_ARG(address), VFP_ARG(size), prot,
			  flags, fd, (long)start);
	if (ours && (result >= 0 || result < -4095)) {
		uintptr_t from = (uintptr_t)result, to = end_of(from, size);

		if (flags & MAP_FIXED)
			cut(from, to);
		hold = hold_of(file);
		if (!hold || !add(from, to, hold, false))
			vfp_debug(VFP_DEBUG_SHIM,
				  "the mapping at 0x%lx does not hold fd %d",
				  (unsigned long)from, file->fd);
		if (hold && !hold->areas) {
			hold->areas = 1;
			let_go(hold);
		}
	}
	if (ours)
		vfp_lock_release(lock);
	vfp_signals_restore(mask);
	return result;
}

void vfp_hold_begin_slow(struct vfp_remap *remap, uintptr_t address,
			 size_t size)
{
	uint64_t mask;

	if (remap->locked || !vfp_process_is_ours())
		return;
	mask = vfp_signals_block();
	vfp_lock_take(lock);
	if (overlapping(address, end_of(address, size))) {
		remap->mask = mask;
		remap->locked = true;
		return;
	}
	vfp_lock_release(lock);
	vfp_signals_restore(mask);
}

void vfp_hold_cut(const struct vfp_remap *remap, const void *address,
		  size_t size)
{
	if (VFP_RARE(remap->locked))
		cut((uintptr_t)address, end_of((uintptr_t)address, size));
}

int vfp_hold_refuses(const struct vfp_remap *remap, const void *from,
		     size_t old_size, size_t size, int flags)
{
	uintptr_t start = (uintptr_t)from;

	if (!remap->locked || start & (PAGE - 1) ||
	    !overlapping(start, start + 1))
		return 0;
	if (flags & MREMAP_DONTUNMAP)
		return -EINVAL;
	return end_of(start, size) > end_of(start, old_size) ? -EFAULT : 0;
}

void vfp_hold_moved(const struct vfp_remap *remap, const void *from,
		    size_t old_size, const void *address, size_t size)
{
	uintptr_t start = (uintptr_t)from, to = (uintptr_t)address;
	struct area *area;
	struct hold *hold;
	bool stays;

	if (!remap->locked)
		return;
	area = overlapping(start, start + 1);
	hold = area ? area->hold : NULL;
	stays = area && area->stays;
	if (hold)
		hold->areas++; /* while its pieces are cut and added */
	/* What was at the new place is gone, but for what lies there now. */
	cut(start, end_of(start, old_size));
	cut(to, end_of(to, size));
	if (hold) {
		add(to, end_of(to, size), hold, stays);
		let_go(hold);
	}
}

void vfp_hold_end_slow(struct vfp_remap *remap)
{
	remap->locked = false;
	vfp_lock_release(lock);
	vfp_signals_restore(remap->mask);
}

/* Cut in two what lies across `at`; without room it stays whole. */
static bool split(uintptr_t at)
{
	struct area *area = overlapping(at - 1, at);

	if (!area || area->end <= at)
		return true;
	if (!add(at, area->end, area->hold, area->stays))
		return false;
	area->end = at;
	return true;
}

int vfp_hold_advise_slow(uintptr_t address, size_t size, int advice)
{
	uintptr_t end = end_of(address, size);
	int error = 0;
	uint64_t mask;

	if (!size || address & (PAGE - 1) || !vfp_process_is_ours())
		return 0;
	mask = vfp_signals_block();
	vfp_lock_take(lock);
	if (overlapping(address, end)) {
		if (advice == MADV_DONTNEED || advice == VFP_DONTNEED_LOCKED ||
		    advice == VFP_GUARD_INSTALL || advice == MADV_FREE ||
		    advice == MADV_DOFORK || advice == MADV_DODUMP)
			error = -EINVAL;
		else if (advice == MADV_REMOVE)
			error = -ENODEV;
		else if (advice == MADV_DONTFORK && split(address) &&
			 split(end))
			for (unsigned int i = 0; i < used; i++)
				if (areas[i].start >= address &&
				    areas[i].end <= end)
					areas[i].stays = true;
	}
	vfp_lock_release(lock);
	vfp_signals_restore(mask);
	return error;
}

void vfp_holds_forked(void)
{
	for (unsigned int i = 0; i < used; i++) {
		if (!areas[i].end || !areas[i].stays)
			continue;
		areas[i].start = areas[i].end = 0;
		let_go(areas[i].hold);
	}
}

int vfp_hold_move(int fd)
{
	int error = 0;
	uint64_t mask;

	if (!vfp_process_is_ours())
		return 0;
	mask = vfp_signals_block();
	vfp_lock_take(lock);
	for (unsigned int i = 0; i < VFP_HOLDS; i++) {
		struct hold *hold = &holds[i];
		int other;

		if (!hold->areas || number_of(hold) != fd)
			continue;
		other = vfp_high_copy(fd);
		if (other < 0) {
			error = -EBUSY;
			break;
		}
		vfp_sys1(SYS_close, fd);
		vfp_own(known_of(hold), other, vfp_cookie(other));
	}
	vfp_lock_release(lock);
	vfp_signals_restore(mask);
	return error;
}

bool vfp_hold_is_in(uintptr_t start, uintptr_t end)
{
	uint64_t mask;
	bool found;

	if (start >= atomic_load(&vfp_held_high) ||
	    end <= atomic_load(&vfp_held_low))
		return false;
	mask = vfp_signals_block();
	vfp_lock_take(lock);
	found = overlapping(start, end);
	vfp_lock_release(lock);
	vfp_signals_restore(mask);
	return found;
}
