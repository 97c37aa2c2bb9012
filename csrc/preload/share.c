/* SPDX-License-Identifier: MIT */
/**
 * @file share.c
 * The windows of this process: what was shared with the daemon, and is still
 * mapped as it was then.
 */
#include "share.h"

#include <errno.h>
#include <string.h>

#include "call.h"
#include "holds.h"
#include "lock.h"
#include "maps.h"
#include "process.h"
#include "session.h"
#include "sys.h"

#define WINDOWS 1024
#define AREAS	64 /* that one MAP_DMA is looked at for */

struct window {
	_Atomic uintptr_t start, end; /* both 0: free */
	uint64_t session;	      /* with which it is shared */
};

/** Wiped by a fork. */
struct windows {
	vfp_lock lock;
	atomic_uint count; /* of those in use, free ones among them */
	struct window list[WINDOWS];
};

static struct windows *windows;
_Atomic uintptr_t vfp_shared_low = UINTPTR_MAX, vfp_shared_high;

bool vfp_share_init(void)
{
	windows = vfp_wiped_memory(sizeof(*windows));
	return windows;
}

static int64_t tell(uint16_t type, const struct vfp_area *area, int fd)
{
	struct vfp_call call = {
		.msg = { .type = type,
			 .arg = { area->start, area->end - area->start,
				  area->offset, area->inode } },
		.token = -1,
		.out_fd = fd,
		.in_fd = -1,
	};

	return vfp_call(&call);
}

/* The first window that overlaps [start, end). */
static struct window *overlapping(uintptr_t start, uintptr_t end)
{
	unsigned int count = atomic_load(&windows->count);

	for (unsigned int i = 0; i < count; i++) {
		struct window *window = &windows->list[i];

		if (atomic_load(&window->start) < end &&
		    atomic_load(&window->end) > start)
			return window;
	}
	return NULL;
}

static void forget(struct window *window)
{
	atomic_store(&window->end, 0);
	atomic_store(&window->start, 0);
}

static void withdraw(uintptr_t start, uintptr_t end)
{
	struct window *window;

	while ((window = overlapping(start, end))) {
		const struct vfp_area area = { .start = window->start,
					       .end = window->end };

		tell(VFIOEMU_MEM_UNSHARE, &area, -1);
		vfp_debug(VFP_DEBUG_SHIM, "0x%lx is not shared any more",
			  (unsigned long)window->start);
		forget(window);
	}
}

static struct window *place(void)
{
	unsigned int count = atomic_load(&windows->count);

	for (unsigned int i = 0; i < count; i++)
		if (!windows->list[i].end)
			return &windows->list[i];
	return count < WINDOWS ? &windows->list[count] : NULL;
}

static void widen(uintptr_t start, uintptr_t end)
{
	uintptr_t low = atomic_load(&vfp_shared_low);
	uintptr_t high = atomic_load(&vfp_shared_high);

	while (start < low &&
	       !atomic_compare_exchange_weak(&vfp_shared_low, &low, start))
		;
	while (end > high &&
	       !atomic_compare_exchange_weak(&vfp_shared_high, &high, end))
		;
}

/* Whoever unmaps it from now on finds it, and waits for our lock. */
static void publish(struct window *window, const struct vfp_area *area)
{
	widen(area->start, area->end);
	atomic_store(&window->start, area->start);
	atomic_store(&window->end, area->end);
	if (window == &windows->list[windows->count])
		atomic_fetch_add(&windows->count, 1);
}

static bool is_shared(int maps, const struct vfp_area *area, int fd)
{
	/* What another thread did before it could find it shows now. */
	return vfp_maps_still(maps, area) &&
	       !tell(fd < 0 ? VFIOEMU_MEM_REGION : VFIOEMU_MEM_SHARE, area, fd);
}

/* A device's memory, if there is any, needs no fd: the daemon knows its file.
 */
static bool share_area(int maps, const struct vfp_area *area, bool regions)
{
	int fd, own = -1;
	bool shared;

	if (regions && is_shared(maps, area, -1))
		return true;
	fd = vfp_maps_fd(area);
	if (fd < 0)
		fd = own = vfp_maps_reopen(area);
	/* The number may have come to mean another file: looked at twice. */
	shared = fd >= 0 && is_shared(maps, area, fd);
	if (shared && !vfp_maps_is_fd(fd, area)) {
		withdraw(area->start, area->end);
		shared = false;
	}
	if (own >= 0)
		vfp_sys1(SYS_close, own);
	return shared;
}

static void offer(int maps, const struct vfp_area *area,
		  const struct vfp_session *session, bool regions)
{
	struct window *window;

	withdraw(area->start, area->end);
	window = place();
	if (!window)
		return;
	publish(window, area);
	if (!share_area(maps, area, regions)) {
		forget(window);
		return;
	}
	window->session = atomic_load(&session->id);
	vfp_debug(VFP_DEBUG_SHIM, "0x%lx, 0x%lx bytes are shared",
		  (unsigned long)area->start,
		  (unsigned long)(area->end - area->start));
}

/* Those of a session that is over are shared with nobody. */
static void keep_up(const struct vfp_session *session)
{
	uint64_t id = atomic_load(&session->id);

	for (unsigned int i = 0; i < windows->count; i++)
		if (windows->list[i].session != id)
			forget(&windows->list[i]);
}

static void share(uint64_t address, uint64_t end,
		  const struct vfp_session *session, bool regions)
{
	struct window *window = overlapping(address, end);
	struct vfp_area area;
	int maps;

	if (window && window->start <= address && window->end >= end)
		return; /* as before */
	maps = vfp_maps_open();
	if (maps < 0)
		return;
	for (unsigned int i = 0; i < AREAS && address < end; i++) {
		if (!vfp_maps_find(maps, address, &area) || area.start >= end ||
		    area.end <= address)
			break;
		if (area.shared && area.inode)
			offer(maps, &area, session, regions);
		address = area.end;
	}
	vfp_sys1(SYS_close, maps);
}

void vfp_share(uint64_t address, uint64_t size)
{
	struct vfp_session *session;
	uint64_t end, mask;
	bool regions;

	if (!size || __builtin_add_overflow(address, size, &end))
		return;
	session = vfp_session_here();
	if (!session)
		return;
	regions = vfp_hold_is_in(address, end); /* has a lock before ours */
	mask = vfp_signals_block();
	vfp_lock_take(&windows->lock);
	keep_up(session);
	share(address, end, session, regions);
	vfp_lock_release(&windows->lock);
	vfp_signals_restore(mask);
}

void vfp_unshare(uintptr_t address, size_t size)
{
	uintptr_t end;
	uint64_t mask;

	if (__builtin_add_overflow(address, size, &end) ||
	    !overlapping(address, end) || !vfp_process_is_ours())
		return;
	int saved = errno;
	mask = vfp_signals_block();
	vfp_lock_take(&windows->lock);
	withdraw(address, end);
	vfp_lock_release(&windows->lock);
	vfp_signals_restore(mask);
	errno = saved;
}
