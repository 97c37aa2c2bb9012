# SPDX-License-Identifier: MIT
# The C kernel (csrc/vfe_*.c) through cffi; vfioemu/native/ wraps it, nothing else should call it.
# Made by csrc/kernel_stub.py from the declarations in csrc/kernel_build.py, which the C compiler holds against the headers.

from collections.abc import Callable, Sequence
from typing import Final, Literal, Self, TypeVar, overload

from _typeshed import ReadableBuffer, WriteableBuffer

# NULL, where a pointer may be that.
class Null:
    def __bool__(self) -> Literal[False]: ...

# A pointer that is not NULL.
class Pointer:
    def __bool__(self) -> Literal[True]: ...

# `const void *` and `const char *`: memory that is read.
class ConstVoidPtr(Pointer): ...

# `void *` and `char *`: memory that may be written.
class VoidPtr(ConstVoidPtr): ...

# `char[]` over a Python object, and over one that may be written.
class ConstBytesPtr(ConstVoidPtr):
    def __len__(self) -> int: ...

class BytesPtr(ConstBytesPtr, VoidPtr): ...

# `uint64_t *`, or an array of them.
class U64Ptr(Pointer):
    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...

# A number that has a C type.
class Integer:
    def __int__(self) -> int: ...

# `struct vfe_bitmap *`, or an array of them.
class BitmapPtr(Pointer):
    residue: U64Ptr
    nbits: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_run *`, or an array of them.
class RunPtr(Pointer):
    first: int
    npages: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_index *`, or an array of them.
class IndexPtr(Pointer):
    count: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_mapping *`, or an array of them.
class MappingPtr(Pointer):
    iova: int
    last: int
    host: VoidPtr | Null
    bitmap: BitmapPtr | Null
    prot: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_log_range *`, or an array of them.
class LogRangePtr(Pointer):
    iova: int
    last: int
    bitmap: BitmapPtr
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_log *`, or an array of them.
class LogPtr(Pointer): ...

# `struct vfe_dma *`, or an array of them.
class DmaPtr(Pointer):
    iova: int
    size: int
    local: int
    op: int
    status: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_written *`, or an array of them.
class WrittenPtr(Pointer):
    seq: int
    iova: int
    size: int
    when: int
    stopped: int
    def __getitem__(self, index: int) -> Self: ...

# `struct vfe_ledger *`, or an array of them.
class LedgerPtr(Pointer):
    writes: int
    stopped: int
    def __getitem__(self, index: int) -> Self: ...

_Pointer = TypeVar("_Pointer", bound=Pointer)

class _Ffi:
    NULL: Final[Null]
    @overload
    def cast(self, cdecl: Literal["void *", "char *"], source: int) -> VoidPtr: ...
    @overload
    def cast(self, cdecl: Literal["uintptr_t"], source: Pointer | Null) -> Integer: ...
    def gc(self, cdata: _Pointer, destructor: Callable[[_Pointer], object]) -> _Pointer: ...
    @overload
    def new(self, cdecl: Literal["uint64_t *"], init: int = ...) -> U64Ptr: ...
    @overload
    def new(self, cdecl: Literal["uint64_t[]"], init: int | Sequence[int]) -> U64Ptr: ...
    @overload
    def new(self, cdecl: Literal["struct vfe_run *"], init: tuple[int, int] = ...) -> RunPtr: ...
    @overload
    def new(self, cdecl: Literal["struct vfe_run[]"], init: int | Sequence[tuple[int, int]]) -> RunPtr: ...
    @overload
    def new(
        self,
        cdecl: Literal["struct vfe_mapping *"],
        init: tuple[int, int, VoidPtr | Null, BitmapPtr | Null, int] = ...,
    ) -> MappingPtr: ...
    @overload
    def new(
        self,
        cdecl: Literal["struct vfe_mapping[]"],
        init: int | Sequence[tuple[int, int, VoidPtr | Null, BitmapPtr | Null, int]],
    ) -> MappingPtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_log_range *"], init: tuple[int, int, BitmapPtr] = ...
    ) -> LogRangePtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_log_range[]"], init: int | Sequence[tuple[int, int, BitmapPtr]]
    ) -> LogRangePtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_dma *"], init: tuple[int, int, int, int, int] = ...
    ) -> DmaPtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_dma[]"], init: int | Sequence[tuple[int, int, int, int, int]]
    ) -> DmaPtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_written *"], init: tuple[int, int, int, int, int] = ...
    ) -> WrittenPtr: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfe_written[]"], init: int | Sequence[tuple[int, int, int, int, int]]
    ) -> WrittenPtr: ...
    @overload
    def from_buffer(
        self, cdecl: ReadableBuffer, require_writable: Literal[False] = False
    ) -> ConstBytesPtr: ...
    @overload
    def from_buffer(self, cdecl: WriteableBuffer, require_writable: Literal[True]) -> BytesPtr: ...
    @overload
    def from_buffer(self, cdecl: Literal["uint64_t[]"], python_buffer: ReadableBuffer) -> U64Ptr: ...
    @overload
    def from_buffer(self, cdecl: Literal["struct vfe_run[]"], python_buffer: ReadableBuffer) -> RunPtr: ...
    @overload
    def from_buffer(
        self, cdecl: Literal["struct vfe_mapping[]"], python_buffer: ReadableBuffer
    ) -> MappingPtr: ...
    @overload
    def from_buffer(
        self, cdecl: Literal["struct vfe_log_range[]"], python_buffer: ReadableBuffer
    ) -> LogRangePtr: ...
    @overload
    def from_buffer(self, cdecl: Literal["struct vfe_dma[]"], python_buffer: ReadableBuffer) -> DmaPtr: ...
    @overload
    def from_buffer(
        self, cdecl: Literal["struct vfe_written[]"], python_buffer: ReadableBuffer
    ) -> WrittenPtr: ...

class _Lib:
    VFE_DMA_READ: Final[int]
    VFE_DMA_WRITE: Final[int]
    VFE_DMA_HARDWARE_WRITE: Final[int]
    VFE_DMA_HIDDEN_WRITE: Final[int]
    VFE_DMA_DONE: Final[int]
    VFE_DMA_SLOW: Final[int]
    VFE_DMA_BAD: Final[int]
    VFE_ISA_BEST: Final[int]
    VFE_ISA_PORTABLE: Final[int]
    VFE_ISA_AVX2: Final[int]
    def vfe_isa_available(self, isa: int, /) -> bool: ...
    def vfe_bitmap_create(self, nbits: int, isa: int, /) -> BitmapPtr | Null: ...
    def vfe_bitmap_destroy(self, bitmap: BitmapPtr, /) -> None: ...
    def vfe_mark(self, bitmap: BitmapPtr, page: int, /) -> None: ...
    def vfe_mark_range(self, bitmap: BitmapPtr, first: int, npages: int, /) -> None: ...
    def vfe_mark_pages(self, bitmap: BitmapPtr, pages: U64Ptr, count: int, /) -> None: ...
    def vfe_test(self, bitmap: BitmapPtr, page: int, /) -> bool: ...
    def vfe_merge(
        self, bitmap: BitmapPtr, first: int, npages: int, src: ConstVoidPtr, src_bit: int, /
    ) -> None: ...
    def vfe_clear_bits(
        self, bitmap: BitmapPtr, first: int, npages: int, src: ConstVoidPtr, src_bit: int, /
    ) -> bool: ...
    def vfe_clear(self, bitmap: BitmapPtr, /) -> None: ...
    def vfe_count(self, bitmap: BitmapPtr, /) -> int: ...
    def vfe_runs(self, bitmap: BitmapPtr, cursor: U64Ptr, runs: RunPtr, max: int, /) -> int: ...
    def vfe_take_runs(self, bitmap: BitmapPtr, cursor: U64Ptr, runs: RunPtr, max: int, /) -> int: ...
    def vfe_buffer_runs(
        self, data: ConstVoidPtr, nbits: int, cursor: U64Ptr, runs: RunPtr, max: int, /
    ) -> int: ...
    def vfe_harvest_words(self, bitmap: BitmapPtr, shift: int, /) -> int: ...
    def vfe_harvest(
        self, bitmap: BitmapPtr, out: VoidPtr, shift: int, lead: int, residue: bool, /
    ) -> None: ...
    def vfe_restore_shifted(self, bitmap: BitmapPtr, out: ConstVoidPtr, nwords: int, /) -> None: ...
    def vfe_unshift(self, bitmap: BitmapPtr, out: ConstVoidPtr, nwords: int, shift: int, /) -> None: ...
    def vfe_peek(self, bitmap: BitmapPtr, first: int, npages: int, out: VoidPtr, dst_bit: int, /) -> None: ...
    def vfe_harvest_or(
        self, bitmap: BitmapPtr, first: int, npages: int, out: VoidPtr, dst_bit: int, /
    ) -> None: ...
    def vfe_harvest_scaled(
        self, bitmap: BitmapPtr, first: int, npages: int, out: VoidPtr, dst_bit: int, up: int, /
    ) -> None: ...
    def vfe_index_create(self, pgshift: int, /) -> IndexPtr | Null: ...
    def vfe_index_destroy(self, index: IndexPtr, /) -> None: ...
    def vfe_index_insert(self, index: IndexPtr, mapping: MappingPtr, /) -> int: ...
    def vfe_index_remove(self, index: IndexPtr, iova: int, /) -> bool: ...
    def vfe_index_set_bitmap(self, index: IndexPtr, iova: int, bitmap: BitmapPtr | Null, /) -> int: ...
    def vfe_index_find(self, index: IndexPtr, iova: int, mapping: MappingPtr, /) -> bool: ...
    def vfe_log_create(self, ranges: LogRangePtr, nranges: int, pgshift: int, /) -> LogPtr | Null: ...
    def vfe_log_destroy(self, log: LogPtr, /) -> None: ...
    def vfe_log_mark(self, log: LogPtr, iova: int, last: int, /) -> None: ...
    def vfe_dma_batch(
        self,
        index: IndexPtr,
        log: LogPtr | Null,
        batch: DmaPtr,
        count: int,
        local: VoidPtr,
        local_size: int,
        /,
    ) -> int: ...
    def vfe_ledger_create(self, log: LogPtr, room: int, /) -> LedgerPtr | Null: ...
    def vfe_ledger_destroy(self, ledger: LedgerPtr, /) -> None: ...
    def vfe_ledger_note(self, ledger: LedgerPtr, iova: int, size: int, stopped: bool, /) -> None: ...
    def vfe_ledger_note_batch(
        self, ledger: LedgerPtr, batch: DmaPtr, count: int, stopped: bool, /
    ) -> None: ...
    def vfe_ledger_mark_batch(self, ledger: LedgerPtr, batch: DmaPtr, count: int, /) -> None: ...
    def vfe_ledger_since(
        self, ledger: LedgerPtr, since: int, stopped_only: bool, out: WrittenPtr, most: int, /
    ) -> int: ...
    def vfe_guard_install(self) -> int: ...
    def vfe_guarded_copy(
        self, to: VoidPtr, from_: ConstVoidPtr, size: int, shared: ConstVoidPtr, /
    ) -> int: ...
    def vfe_unmap(self, start: VoidPtr, size: int, /) -> int: ...
    def vfe_zero_sum(self, page_size: int, /) -> int: ...
    def vfe_sums_sort(
        self,
        memory: ConstVoidPtr,
        fd: int,
        page_size: int,
        runs: RunPtr,
        nruns: int,
        cursor: U64Ptr,
        sums: U64Ptr,
        full: RunPtr,
        zero: RunPtr,
        max: int,
        max_pages: int,
        counts: U64Ptr,
        isa: int,
        /,
    ) -> bool: ...
    def vfe_sums_take(
        self, memory: ConstVoidPtr, fd: int, page_size: int, runs: RunPtr, nruns: int, sums: U64Ptr, /
    ) -> None: ...
    def vfe_sums_set(self, sums: U64Ptr, runs: RunPtr, nruns: int, sum: int, /) -> None: ...
    def vfe_sums_unset(self, sums: U64Ptr, npages: int, /) -> int: ...
    def vfe_sums_digests(self, sums: U64Ptr, npages: int, chunk: int, digests: U64Ptr, /) -> None: ...
    def vfe_sums_differing(
        self,
        memory: ConstVoidPtr,
        fd: int,
        page_size: int,
        npages: int,
        sums: U64Ptr,
        cursor: U64Ptr,
        runs: RunPtr,
        max: int,
        /,
    ) -> int: ...
    def vfe_words_differing(
        self, ours: ConstVoidPtr, theirs: ConstVoidPtr, count: int, cursor: U64Ptr, runs: RunPtr, max: int, /
    ) -> int: ...
    def vfe_runs_pages(self, runs: RunPtr, nruns: int, npages: int, /) -> int: ...
    def vfe_runs_take(
        self, runs: RunPtr, nruns: int, cursor: U64Ptr, npages: int, out: RunPtr, max: int, /
    ) -> int: ...
    def vfe_runs_mark(self, runs: RunPtr, nruns: int, cursor: U64Ptr, bitmap: BitmapPtr, /) -> None: ...
    def vfe_push(
        self,
        fd: int,
        head: ConstVoidPtr,
        head_size: int,
        memory: ConstVoidPtr,
        page_size: int,
        runs: RunPtr,
        nruns: int,
        cursor: U64Ptr,
        timeout: int,
        /,
    ) -> int: ...
    def vfe_pull(
        self,
        fd: int,
        memory: VoidPtr,
        page_size: int,
        runs: RunPtr,
        nruns: int,
        cursor: U64Ptr,
        sums: U64Ptr,
        timeout: int,
        /,
    ) -> int: ...
    def vfe_punch(self, fd: int, page_size: int, runs: RunPtr, nruns: int, /) -> int: ...

ffi: Final[_Ffi]
lib: Final[_Lib]
