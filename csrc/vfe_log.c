/* SPDX-License-Identifier: MIT */
#include "vfe_log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool in_order(const struct vfe_log_range *ranges, size_t nranges,
		     unsigned int pgshift)
{
	for (size_t i = 0; i < nranges; i++) {
		const struct vfe_log_range *range = &ranges[i];

		if (range->last < range->iova ||
		    (i && range->iova <= ranges[i - 1].last))
			return false;
		if ((range->last - range->iova) >> pgshift >=
		    range->bitmap->nbits)
			return false;
	}
	return true;
}

struct vfe_log *vfe_log_create(const struct vfe_log_range *ranges,
			       size_t nranges, unsigned int pgshift)
{
	assert(pgshift < 64);
	if (!in_order(ranges, nranges, pgshift))
		return NULL;
	struct vfe_log *log = calloc(1, sizeof(*log));

	if (!log)
		return NULL;
	log->ranges = calloc(nranges ? nranges : 1, sizeof(*ranges));
	if (!log->ranges) {
		free(log);
		return NULL;
	}
	memcpy(log->ranges, ranges, nranges * sizeof(*ranges));
	log->nranges = nranges;
	log->pgshift = pgshift;
	return log;
}

void vfe_log_destroy(struct vfe_log *log)
{
	if (!log)
		return;
	free(log->ranges);
	free(log);
}

/* The first range that ends at or after iova. */
static size_t first_range(const struct vfe_log *log, uint64_t iova)
{
	size_t lo = 0;
	size_t hi = log->nranges;

	while (lo < hi) {
		size_t middle = (lo + hi) / 2;

		if (log->ranges[middle].last < iova)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo;
}

void vfe_log_mark(const struct vfe_log *log, uint64_t iova, uint64_t last)
{
	assert(iova <= last);
	for (size_t i = first_range(log, iova); i < log->nranges; i++) {
		const struct vfe_log_range *range = &log->ranges[i];

		if (range->iova > last)
			break;
		uint64_t from = iova > range->iova ? iova : range->iova;
		uint64_t to = last < range->last ? last : range->last;

		vfe_mark_bytes_fenced(range->bitmap, from - range->iova,
				      to - range->iova, log->pgshift);
	}
}
