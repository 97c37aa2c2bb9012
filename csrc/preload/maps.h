/* SPDX-License-Identifier: MIT */
/**
 * @file maps.h
 * What is mapped where in this process, and by which fd it can be reached.
 */
#ifndef VFP_MAPS_H
#define VFP_MAPS_H

#include "preload.h"

/** A mapping. */
struct vfp_area {
	uint64_t start, end;
	uint64_t offset; /* in the file */
	uint64_t inode;	 /* 0: no file */
	uint32_t major, minor;
	bool shared;   /* MAP_SHARED, readable and writable */
	bool code;     /* executable */
	bool of_file;  /* MAP_SHARED: its pages are the file's */
	uint64_t page; /* size of its pages; 0: see vfp_maps_page() */
};

/** Open /proc/self/maps: an fd, or a negative errno. */
VFP_HIDDEN int vfp_maps_open(void);
/** The area that holds `address`, or the first one behind it. */
VFP_HIDDEN bool vfp_maps_find(int maps, uint64_t address,
			      struct vfp_area *area);
/** How large its pages are, in bytes: more than usual in hugetlbfs only. */
VFP_HIDDEN uint64_t vfp_maps_page(const struct vfp_area *area);
/** How much a mapping with MAP_FIXED replaces: whole pages, which may be huge.
 */
VFP_HIDDEN size_t vfp_maps_covers(size_t size, int flags, int fd);
/** How much mremap() moves of what is at `address`, or replaces elsewhere. */
VFP_HIDDEN size_t vfp_maps_moves(const void *address, size_t size);
/** The size of huge pages of a file in hugetlbfs; 0: it is none. */
VFP_HIDDEN uint64_t vfp_maps_huge_file(int fd);
/** Whether it is mapped as it was when it was found. */
VFP_HIDDEN bool vfp_maps_still(int maps, const struct vfp_area *area);
/** An fd of ours for the file of an area, open for reading and writing; -1. */
VFP_HIDDEN int vfp_maps_fd(const struct vfp_area *area);
/**
 * The file of an area of which we have no fd: an fd that is the caller's to
 * close, or -1. Only the mighty can do that (CAP_CHECKPOINT_RESTORE).
 */
VFP_HIDDEN int vfp_maps_reopen(const struct vfp_area *area);
/** Whether `fd` is one. */
VFP_HIDDEN bool vfp_maps_is_fd(int fd, const struct vfp_area *area);

#endif
