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
#include "lock.h"
#include "maps.h"
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
	vfe_lock lock;
	atomic_uint count; /* of those in use, free ones among them */
	struct window list[WINDOWS];
};

static struct windows *windows;
_Atomic uintptr_t vfe_shared_low = UINTPTR_MAX, vfe_shared_high;

bool vfe_share_init(void)
{
	windows = vfe_wiped_memory(sizeof(*windows));
	return windows;
}

static int64_t tell(uint16_t type, uintptr_t start, uintptr_t end,
		    uint64_t offset, int fd)
{
	struct vfe_call call = {
		.msg = { .type = type, .arg = { start, end - start, offset } },
		.token = -1,
		.out_fd = fd,
		.in_fd = -1,
	};

	return vfe_call(&call);
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
		tell(VFIOEMU_MEM_UNSHARE, window->start, window->end, 0, -1);
		vfe_debug(VFE_DEBUG_SHIM, "0x%lx is not shared any more",
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
	uintptr_t low = atomic_load(&vfe_shared_low);
	uintptr_t high = atomic_load(&vfe_shared_high);

	while (start < low &&
	       !atomic_compare_exchange_weak(&vfe_shared_low, &low, start))
		;
	while (end > high &&
	       !atomic_compare_exchange_weak(&vfe_shared_high, &high, end))
		;
}

/* Whoever unmaps it from now on finds it, and waits for our lock. */
static void publish(struct window *window, const struct vfe_area *area)
{
	widen(area->start, area->end);
	atomic_store(&window->start, area->start);
	atomic_store(&window->end, area->end);
	if (window == &windows->list[windows->count])
		atomic_fetch_add(&windows->count, 1);
}

static bool is_shared(int maps, const struct vfe_area *area, int fd)
{
	/* What another thread did before it could find it shows now. */
	return vfe_maps_still(maps, area) &&
	       !tell(VFIOEMU_MEM_SHARE, area->start, area->end, area->offset,
		     fd);
}

static void offer(int maps, const struct vfe_area *area,
		  const struct vfe_session *session)
{
	struct window *window;
	int fd = -1, own = -1;

	withdraw(area->start, area->end);
	window = place();
	if (window)
		fd = vfe_maps_fd(area);
	if (window && fd < 0)
		fd = own = vfe_maps_reopen(area);
	if (fd < 0)
		return;
	publish(window, area);
	if (is_shared(maps, area, fd)) {
		window->session = atomic_load(&session->id);
		vfe_debug(VFE_DEBUG_SHIM, "0x%lx, 0x%lx bytes are shared",
			  (unsigned long)area->start,
			  (unsigned long)(area->end - area->start));
		/* The number may have come to mean another file. */
		if (!vfe_maps_is_fd(fd, area))
			withdraw(area->start, area->end);
	} else {
		forget(window);
	}
	if (own >= 0)
		vfe_sys1(SYS_close, own);
}

/* Those of a session that is over are shared with nobody. */
static void keep_up(const struct vfe_session *session)
{
	uint64_t id = atomic_load(&session->id);

	for (unsigned int i = 0; i < windows->count; i++)
		if (windows->list[i].session != id)
			forget(&windows->list[i]);
}

static void share(uint64_t address, uint64_t end,
		  const struct vfe_session *session)
{
	struct window *window = overlapping(address, end);
	struct vfe_area area;
	int maps;

	if (window && window->start <= address && window->end >= end)
		return; /* as before */
	maps = vfe_maps_open();
	if (maps < 0)
		return;
	for (unsigned int i = 0; i < AREAS && address < end; i++) {
		if (!vfe_maps_find(maps, address, &area) || area.start >= end ||
		    area.end <= address)
			break;
		if (area.shared && area.inode)
			offer(maps, &area, session);
		address = area.end;
	}
	vfe_sys1(SYS_close, maps);
}

void vfe_share(uint64_t address, uint64_t size)
{
	struct vfe_session *session;
	uint64_t end, mask;

	if (!size || __builtin_add_overflow(address, size, &end))
		return;
	session = vfe_session_here();
	if (!session)
		return;
	mask = vfe_signals_block();
	vfe_lock_take(&windows->lock);
	keep_up(session);
	share(address, end, session);
	vfe_lock_release(&windows->lock);
	vfe_signals_restore(mask);
}

void vfe_unshare(uintptr_t address, size_t size)
{
	uintptr_t end;
	uint64_t mask;

	if (__builtin_add_overflow(address, size, &end) ||
	    !overlapping(address, end) || !vfe_session_is_ours())
		return;
	int saved = errno;
	mask = vfe_signals_block();
	vfe_lock_take(&windows->lock);
	withdraw(address, end);
	vfe_lock_release(&windows->lock);
	vfe_signals_restore(mask);
	errno = saved;
}
