/* SPDX-License-Identifier: MIT */
/** @file The loop in C that bench/kernel.py holds the one in Python against. */
#include "vfe_dma.h"

size_t bench_batches(const struct vfe_index *index, struct vfe_dma *batch,
		     size_t count, char *local, size_t local_size,
		     unsigned int repeats);

/** Do the same batch `repeats` times. @return how many descriptors were done.
 */
size_t bench_batches(const struct vfe_index *index, struct vfe_dma *batch,
		     size_t count, char *local, size_t local_size,
		     unsigned int repeats)
{
	size_t done = 0;

	for (unsigned int i = 0; i < repeats; i++)
		done += vfe_dma_batch(index, NULL, batch, count, local,
				      local_size);
	return done;
}
