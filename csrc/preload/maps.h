/* SPDX-License-Identifier: MIT */
/**
 * @file maps.h
 * What is mapped where in this process, and by which fd it can be reached.
 */
#ifndef VFE_MAPS_H
#define VFE_MAPS_H

#include "preload.h"

/** A mapping. */
struct vfe_area {
	uint64_t start, end;
	uint64_t offset; /* in the file */
	uint64_t inode;	 /* 0: no file */
	uint32_t major, minor;
	bool shared;   /* MAP_SHARED, readable and writable */
	bool code;     /* executable */
	bool of_file;  /* MAP_SHARED: its pages are the file's */
	uint64_t page; /* size of its pages; 0: see vfe_maps_page() */
};

/** Open /proc/self/maps: an fd, or a negative errno. */
VFE_HIDDEN int vfe_maps_open(void);
/** The area that holds `address`, or the first one behind it. */
VFE_HIDDEN bool vfe_maps_find(int maps, uint64_t address,
			      struct vfe_area *area);
/** How large its pages are, in bytes: more than usual in hugetlbfs only. */
VFE_HIDDEN uint64_t vfe_maps_page(const struct vfe_area *area);
/** How much a mapping with MAP_FIXED replaces: whole pages, which may be huge.
 */
VFE_HIDDEN size_t vfe_maps_covers(size_t size, int flags, int fd);
/** How much mremap() moves of what is at `address`, or replaces elsewhere. */
VFE_HIDDEN size_t vfe_maps_moves(const void *address, size_t size);
/** The size of huge pages of a file in hugetlbfs; 0: it is none. */
VFE_HIDDEN uint64_t vfe_maps_huge_file(int fd);
/** Whether it is mapped as it was when it was found. */
VFE_HIDDEN bool vfe_maps_still(int maps, const struct vfe_area *area);
/** An fd of ours for the file of an area, open for reading and writing; -1. */
VFE_HIDDEN int vfe_maps_fd(const struct vfe_area *area);
/**
 * The file of an area of which we have no fd: an fd that is the caller's to
 * close, or -1. Only the mighty can do that (CAP_CHECKPOINT_RESTORE).
 */
VFE_HIDDEN int vfe_maps_reopen(const struct vfe_area *area);
/** Whether `fd` is one. */
VFE_HIDDEN bool vfe_maps_is_fd(int fd, const struct vfe_area *area);

#endif
