/* SPDX-License-Identifier: MIT */
/**
 * @file
 * A device's own dirty log (VFIO_DEVICE_FEATURE_DMA_LOGGING): sorted ranges of
 * IOVAs, each with a bitmap of the log's page size.
 */
#ifndef VFE_LOG_H
#define VFE_LOG_H

#include "vfe_bitmap.h"

struct vfe_log_range {
	uint64_t iova;
	uint64_t last;
	struct vfe_bitmap *bitmap;
};

struct vfe_log {
	struct vfe_log_range *ranges;
	size_t nranges;
	unsigned int pgshift;
};

/**
 * Make a log of `nranges` ranges, sorted and apart; bitmaps stay the caller's.
 * @return NULL without memory, or if ranges are out of order, wrap, or have a
 * bitmap that is too small. Precondition: pgshift < 64.
 */
struct vfe_log *vfe_log_create(const struct vfe_log_range *ranges,
			       size_t nranges, unsigned int pgshift);
void vfe_log_destroy(struct vfe_log *log);

/** Mark what [iova, last] touches of the ranges. Precondition: iova <= last. */
void vfe_log_mark(const struct vfe_log *log, uint64_t iova, uint64_t last);

/** Mark the pages of [offset, last] of something; after a full fence. */
static inline void vfe_mark_bytes_fenced(struct vfe_bitmap *bitmap,
					 uint64_t offset, uint64_t last,
					 unsigned int pgshift)
{
	uint64_t first_page = offset >> pgshift;
	uint64_t last_page = last >> pgshift;

	if (first_page == last_page)
		vfe_mark_fenced(bitmap, first_page);
	else
		vfe_mark_range(bitmap, first_page, last_page - first_page + 1);
}

#endif
