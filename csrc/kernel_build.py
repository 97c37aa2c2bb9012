# SPDX-License-Identifier: MIT
"""Write the C source of `vfioemu._kernel`: what cffi needs to know of csrc/vfe_*.h.

    python kernel_build.py _kernel.c

API mode: the C compiler sees the headers themselves, so a declaration that disagrees with them does not compile, and
`...` leaves layouts to it. The declarations say one thing more than the headers, in clang's word: a pointer that is
`_Nullable` may be NULL, and no other may. cffi does not know that word; kernel_stub.py makes types of it.
"""

import sys

from cffi import FFI

NULLABLE = "_Nullable "

DECLARATIONS = """
    enum vfe_isa { VFE_ISA_BEST, VFE_ISA_PORTABLE, VFE_ISA_AVX2 };

    bool vfe_isa_available(enum vfe_isa isa);

    struct vfe_bitmap { uint64_t residue[2]; uint64_t nbits; ...; };
    struct vfe_run { uint64_t first; uint64_t npages; };

    struct vfe_bitmap *_Nullable vfe_bitmap_create(uint64_t nbits, enum vfe_isa isa);
    void vfe_bitmap_destroy(struct vfe_bitmap *bitmap);
    void vfe_mark(struct vfe_bitmap *bitmap, uint64_t page);
    void vfe_mark_range(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages);
    void vfe_mark_pages(struct vfe_bitmap *bitmap, const uint64_t *pages, size_t count);
    bool vfe_test(const struct vfe_bitmap *bitmap, uint64_t page);
    void vfe_merge(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages, const void *src, uint64_t src_bit);
    bool vfe_clear_bits(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages, const void *src,
                        uint64_t src_bit);
    void vfe_clear(struct vfe_bitmap *bitmap);
    uint64_t vfe_count(struct vfe_bitmap *bitmap);
    size_t vfe_runs(struct vfe_bitmap *bitmap, uint64_t *cursor, struct vfe_run *runs, size_t max);
    size_t vfe_take_runs(struct vfe_bitmap *bitmap, uint64_t *cursor, struct vfe_run *runs, size_t max);
    size_t vfe_buffer_runs(const void *data, uint64_t nbits, uint64_t *cursor, struct vfe_run *runs, size_t max);
    size_t vfe_harvest_words(const struct vfe_bitmap *bitmap, unsigned int shift);
    void vfe_harvest(struct vfe_bitmap *bitmap, void *out, unsigned int shift, uint64_t lead, bool residue);
    void vfe_restore_shifted(struct vfe_bitmap *bitmap, const void *out, size_t nwords);
    void vfe_unshift(struct vfe_bitmap *bitmap, const void *out, size_t nwords, unsigned int shift);
    void vfe_peek(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages, void *out, uint64_t dst_bit);
    void vfe_harvest_or(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages, void *out, uint64_t dst_bit);
    void vfe_harvest_scaled(struct vfe_bitmap *bitmap, uint64_t first, uint64_t npages, void *out,
                            uint64_t dst_bit, int up);

    struct vfe_index { size_t count; ...; };
    struct vfe_mapping {
        uint64_t iova; uint64_t last; char *_Nullable host; struct vfe_bitmap *_Nullable bitmap; uint32_t prot;
    };

    struct vfe_index *_Nullable vfe_index_create(unsigned int pgshift);
    void vfe_index_destroy(struct vfe_index *index);
    int vfe_index_insert(struct vfe_index *index, const struct vfe_mapping *mapping);
    bool vfe_index_remove(struct vfe_index *index, uint64_t iova);
    int vfe_index_set_bitmap(struct vfe_index *index, uint64_t iova, struct vfe_bitmap *_Nullable bitmap);
    bool vfe_index_find(const struct vfe_index *index, uint64_t iova, struct vfe_mapping *mapping);

    struct vfe_log_range { uint64_t iova; uint64_t last; struct vfe_bitmap *bitmap; };
    struct vfe_log { ...; };

    struct vfe_log *_Nullable vfe_log_create(const struct vfe_log_range *ranges, size_t nranges, unsigned int pgshift);
    void vfe_log_destroy(struct vfe_log *log);
    void vfe_log_mark(const struct vfe_log *log, uint64_t iova, uint64_t last);

    #define VFE_DMA_READ ...
    #define VFE_DMA_WRITE ...
    #define VFE_DMA_HARDWARE_WRITE ...
    #define VFE_DMA_HIDDEN_WRITE ...
    #define VFE_DMA_DONE ...
    #define VFE_DMA_SLOW ...
    #define VFE_DMA_BAD ...
    struct vfe_dma { uint64_t iova; uint64_t size; uint64_t local; uint32_t op; uint32_t status; };

    size_t vfe_dma_batch(const struct vfe_index *index, const struct vfe_log *_Nullable log,
                         struct vfe_dma *batch, size_t count, char *local, size_t local_size);

    struct vfe_written { uint64_t seq; uint64_t iova; uint64_t size; uint64_t when; uint64_t stopped; };
    struct vfe_ledger { uint64_t writes; uint64_t stopped; ...; };

    struct vfe_ledger *_Nullable vfe_ledger_create(const struct vfe_log *log, size_t room);
    void vfe_ledger_destroy(struct vfe_ledger *ledger);
    void vfe_ledger_note(struct vfe_ledger *ledger, uint64_t iova, uint64_t size, bool stopped);
    void vfe_ledger_note_batch(struct vfe_ledger *ledger, const struct vfe_dma *batch, size_t count, bool stopped);
    void vfe_ledger_mark_batch(struct vfe_ledger *ledger, const struct vfe_dma *batch, size_t count);
    size_t vfe_ledger_since(const struct vfe_ledger *ledger, uint64_t since, bool stopped_only,
                            struct vfe_written *out, size_t most);

    int vfe_guard_install(void);
    size_t vfe_guarded_copy(void *to, const void *from, size_t size, const void *shared);

    int vfe_unmap(void *start, size_t size);

    uint64_t vfe_zero_sum(size_t page_size);
    bool vfe_sums_sort(const void *memory, int fd, size_t page_size, const struct vfe_run *runs, size_t nruns,
                       uint64_t *cursor, uint64_t *sums, struct vfe_run *full, struct vfe_run *zero, size_t max,
                       uint64_t max_pages, uint64_t *counts, enum vfe_isa isa);
    void vfe_sums_take(const void *memory, int fd, size_t page_size, const struct vfe_run *runs, size_t nruns,
                       uint64_t *sums);
    void vfe_sums_set(uint64_t *sums, const struct vfe_run *runs, size_t nruns, uint64_t sum);
    uint64_t vfe_sums_unset(const uint64_t *sums, uint64_t npages);
    void vfe_sums_digests(const uint64_t *sums, uint64_t npages, uint64_t chunk, uint64_t *digests);
    size_t vfe_sums_differing(const void *memory, int fd, size_t page_size, uint64_t npages, const uint64_t *sums,
                              uint64_t *cursor, struct vfe_run *runs, size_t max);

    size_t vfe_words_differing(const void *ours, const void *theirs, uint64_t count, uint64_t *cursor,
                               struct vfe_run *runs, size_t max);
    uint64_t vfe_runs_pages(const struct vfe_run *runs, size_t nruns, uint64_t npages);
    size_t vfe_runs_take(const struct vfe_run *runs, size_t nruns, uint64_t *cursor, uint64_t npages,
                         struct vfe_run *out, size_t max);
    void vfe_runs_mark(const struct vfe_run *runs, size_t nruns, const uint64_t *cursor, struct vfe_bitmap *bitmap);

    int vfe_push(int fd, const void *head, size_t head_size, const void *memory, size_t page_size,
                 const struct vfe_run *runs, size_t nruns, uint64_t *cursor, int timeout);
    int vfe_pull(int fd, void *memory, size_t page_size, const struct vfe_run *runs, size_t nruns, uint64_t *cursor,
                 uint64_t *sums, int timeout);
    int vfe_punch(int fd, size_t page_size, const struct vfe_run *runs, size_t nruns);
"""


def builder() -> FFI:
    """Make the cffi builder, with the declarations and the headers that the C compiler checks them against."""
    ffi = FFI()
    ffi.cdef(DECLARATIONS.replace(NULLABLE, ""))
    ffi.set_source(
        "vfioemu._kernel",
        '#include "vfe_bitmap.h"\n#include "vfe_dma.h"\n#include "vfe_guard.h"\n#include "vfe_index.h"\n#include "vfe_ledger.h"\n#include "vfe_log.h"\n#include "vfe_move.h"\n#include "vfe_pages.h"\n#include "vfe_runs.h"\n#include "vfe_sums.h"\n#include "vfe_unmap.h"\n',
        py_limited_api=True,
    )
    return ffi


if __name__ == "__main__":
    builder().emit_c_code(sys.argv[1])
