/* SPDX-License-Identifier: MIT */
#include "vfe_ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

struct vfe_ledger *vfe_ledger_create(const struct vfe_log *log, size_t room)
{
	struct vfe_ledger *ledger;

	assert(room);
	if (room > (SIZE_MAX - sizeof(*ledger)) / sizeof(ledger->ring[0]))
		return NULL;
	ledger = calloc(1, sizeof(*ledger) + room * sizeof(ledger->ring[0]));
	if (!ledger)
		return NULL;
	ledger->log = log;
	ledger->room = room;
	return ledger;
}

void vfe_ledger_destroy(struct vfe_ledger *ledger)
{
	free(ledger);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t last_byte(uint64_t iova, uint64_t size)
{
	uint64_t last = iova + size - 1;

	return last < iova ? UINT64_MAX : last;
}

static void note(struct vfe_ledger *ledger, uint64_t iova, uint64_t size,
		 bool stopped, uint64_t when)
{
	if (!size)
		return;
	vfe_log_mark(ledger->log, iova, last_byte(iova, size));
	ledger->ring[ledger->writes % ledger->room] = (struct vfe_written){
		.seq = ledger->writes + 1,
		.iova = iova,
		.size = size,
		.when = when,
		.stopped = stopped,
	};
	ledger->writes++;
	ledger->stopped += stopped;
}

void vfe_ledger_note(struct vfe_ledger *ledger, uint64_t iova, uint64_t size,
		     bool stopped)
{
	note(ledger, iova, size, stopped, now());
}

void vfe_ledger_note_batch(struct vfe_ledger *ledger,
			   const struct vfe_dma *batch, size_t count,
			   bool stopped)
{
	uint64_t when = now();

	for (size_t i = 0; i < count; i++) {
		const struct vfe_dma *dma = &batch[i];

		/* One that failed may have written some of it. */
		if (dma->op != VFE_DMA_READ && dma->status != VFE_DMA_BAD)
			note(ledger, dma->iova, dma->size, stopped, when);
	}
}

void vfe_ledger_mark_batch(struct vfe_ledger *ledger,
			   const struct vfe_dma *batch, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct vfe_dma *dma = &batch[i];

		if (dma->op != VFE_DMA_READ && dma->size)
			vfe_log_mark(ledger->log, dma->iova,
				     last_byte(dma->iova, dma->size));
	}
}

size_t vfe_ledger_since(const struct vfe_ledger *ledger, uint64_t since,
			bool stopped_only, struct vfe_written *out, size_t most)
{
	uint64_t oldest = ledger->writes > ledger->room
				  ? ledger->writes - ledger->room
				  : 0;
	size_t found = 0;

	for (uint64_t i = since > oldest ? since : oldest;
	     i < ledger->writes && found < most; i++) {
		const struct vfe_written *written =
			&ledger->ring[i % ledger->room];

		if (!stopped_only || written->stopped)
			out[found++] = *written;
	}
	return found;
}
