/* SPDX-License-Identifier: MIT */
/**
 * @file libc_shm.c
 * Overridden libc functions: those of System V that change what is mapped
 * where.
 */
#include <sys/mman.h>
#include <sys/shm.h>

#include "dma.h"
#include "holds.h"
#include "maps.h"
#include "preload.h"
#include "share.h"
#include "sys.h"

#define PAGE 4096ul

static void goes(uintptr_t start, size_t size)
{
	vfp_memory_goes((void *)start, size);
}

static void returns(uintptr_t start, size_t size)
{
	vfp_dma_returns(start, size, start);
}

static bool same_file(const struct vfp_area *one, const struct vfp_area *other)
{
	return one->inode == other->inode && one->major == other->major &&
	       one->minor == other->minor;
}

/* What is left of the segment that is attached at `address`, area by area. */
static void each_area(uintptr_t address, void (*tell)(uintptr_t, size_t))
{
	int maps = vfp_maps_open();
	struct vfp_area first, area;

	if (maps < 0)
		return;
	if (vfp_maps_find(maps, address, &first) &&
	    first.start - address == first.offset)
		for (area = first; same_file(&area, &first) &&
				   area.start - address == area.offset;) {
			tell(area.start, area.end - area.start);
			if (!vfp_maps_find(maps, area.end, &area))
				break;
		}
	vfp_sys1(SYS_close, maps);
}

static void leaves(uintptr_t start, size_t size)
{
	vfp_dma_goes((void *)start, size, VFIOEMU_UNMAPPED);
}

VFP_EXPORT int shmdt(const void *memory)
{
	bool looked_at = VFP_RARE(
		atomic_load_explicit(&vfp_dma_seen, memory_order_relaxed));
	uintptr_t address = (uintptr_t)memory;
	int result;

	if (looked_at) {
		each_area(address, leaves);
		each_area(address, goes);
	}
	result = VFP_NEXT(shmdt, SYS_shmdt, memory);
	if (looked_at && result)
		each_area(address, returns);
	return result;
}

/* How much shmat() replaces: it may lie where something else is. */
static size_t replaced(int id, const void *address, int flags)
{
	struct shmid_ds status;

	if (!(flags & SHM_REMAP) || !address ||
	    vfp_sys3(SYS_shmctl, id, IPC_STAT, &status))
		return 0;
	return status.shm_segsz;
}

VFP_EXPORT void *shmat(int id, const void *address, int flags)
{
	size_t size = replaced(id, address, flags);
	const void *start = flags & SHM_RND
				    ? (void *)((uintptr_t)address & ~(PAGE - 1))
				    : address;
	bool kept = size && vfp_dma_goes(start, size, VFIOEMU_UNMAPPED);
	struct vfp_remap remap = { 0 };
	void *result;

	if (size) {
		vfp_hold_begin(&remap, start, size);
		vfp_memory_goes(start, size);
	}
	result = VFP_NEXT(shmat, SYS_shmat, id, address, flags);
	if (size) {
		vfp_memory_goes(start, size);
		if (result != MAP_FAILED)
			vfp_hold_cut(&remap, start, size);
		vfp_hold_end(&remap);
	}
	if (VFP_RARE(kept) && result == MAP_FAILED)
		vfp_dma_returns((uintptr_t)start, size, (uintptr_t)start);
	return result;
}
