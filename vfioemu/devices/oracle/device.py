# SPDX-License-Identifier: MIT
"""The device the golden traces were recorded with; its hardware does what its command window is told.

It behaves as the kernel driver `mdirty` (the program that recorded the traces) in every answer. Region 0 is the command
window: 64 bytes written at offset 0 are a command (eight 64-bit words: operation and arguments), 64 bytes read there
are its result (the first word, negative errno on failure), and 64 KiB from offset 0x1000 on hold what did not fit.

=====  ==========  ==========================================  ====================================================
op     name        arguments                                   result; window
=====  ==========  ==========================================  ====================================================
1      pin         iova, npages, prot (1 read, 2 write)        pages pinned
2      unpin       iova, npages                                pages that the device held
3      rw          iova, length, write?, byte                  0; the bytes read
4      notify                                                  dma_unmap calls since then; (iova, length) pairs
5      log_dirty   iova, length                                marks made in the DMA log
6      arcs                                                    migration arcs since then; (from, to) bytes
7      fail        n, errno                                    0: the n-th arc from now on fails
8      mig_sizes   stop, initial, dirty                        0: sizes of the parts of the migration stream
9      irq         index, subindex                             1 if an eventfd was signalled
10     npinned                                                 pins held, counting repeats
=====  ==========  ==========================================  ====================================================

Region 7 is a read-only config space of 256 bytes that accepts every write. Option `variant` says what the device has.
"""

import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from msgspec import Meta

from vfioemu.core.base.bits import int32
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import Irq
from vfioemu.core.model.regions import ABSENT, READ_WRITE, Region
from vfioemu.core.model.streams import (
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
    StateLost,
)
from vfioemu.devices.options import Options, OptionTable
from vfioemu.devices.oracle.dirty_log import DirtyLog
from vfioemu.devices.oracle.migrate import OracleResuming, OracleSaving, Sizes
from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import state_name

BAR_SIZE: Final = 0x20000
WINDOW_OFFSET: Final = 0x1000
WINDOW_SIZE: Final = 0x10000
CONFIG_SIZE: Final = 256
COMMAND_SIZE: Final = 64
MAX_LOG: Final = 512

_PRECOPYING: Final = frozenset({PRE_COPY, PRE_COPY_P2P})
_RUNNING: Final = frozenset({RUNNING, RUNNING_P2P})

Words: TypeAlias = tuple[int, ...]
"""A command: eight 64-bit words."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The abilities of a kind of oracle device (struct md_variant)."""

    dma_unmap: bool = True
    logging: bool = False
    migration: int = 0


_S: Final = c.VFIO_MIGRATION_STOP_COPY
_P: Final = c.VFIO_MIGRATION_P2P
_C: Final = c.VFIO_MIGRATION_PRE_COPY

VARIANTS: Final[Mapping[str, Variant]] = {
    "basic": Variant(),
    "nounmap": Variant(dma_unmap=False),
    "log": Variant(logging=True),
    "migs": Variant(logging=True, migration=_S),
    "migsp": Variant(logging=True, migration=_S | _P),
    "migsc": Variant(logging=True, migration=_S | _C),
    "migspc": Variant(logging=True, migration=_S | _P | _C),
}


class OracleOptions(Options, frozen=True):
    """The options of an oracle."""

    variant: Annotated[
        Literal["basic", "nounmap", "log", "migs", "migsp", "migsc", "migspc"],
        Meta(description="what it has: a dma_unmap callback, DMA logging, parts of migration"),
    ] = "basic"


class Oracle(DeviceModel):
    """The device; see the module."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(OracleOptions)

    def __init__(self, options: Mapping[str, object]) -> None:
        own = OracleOptions.parse(options)
        super().__init__(options)
        self._variant = VARIANTS[own.variant]
        self.migration_flags = self._variant.migration
        self.has_dma_logging = self._variant.logging
        self._result = [0] * 8
        self._window = bytearray(WINDOW_SIZE)
        self._config = (0x0D1E1D0F).to_bytes(4, "little").ljust(CONFIG_SIZE, b"\0")
        self._notifications: list[tuple[int, int]] = []
        self._arcs: list[tuple[int, int]] = []
        self._fail_at = 0
        self._fail_errno = 0
        self.sizes = Sizes()
        self._log: DirtyLog | None = None
        self._saving: OracleSaving | None = None
        self._resuming: OracleResuming | None = None

    @property
    def has_dma_unmap(self) -> bool:
        """By variant."""
        return self._variant.dma_unmap

    def regions(self) -> Sequence[Region]:
        """Return the command window and the config space; the others are there with size 0 (md_region)."""
        return _REGIONS

    def irqs(self) -> Sequence[Irq]:
        """Return one INTx, four MSI, the others with none."""
        return _IRQS

    # --- life ---

    def open_device(self) -> None:
        """md_open()."""
        self._notifications.clear()
        self.sizes = Sizes()
        self.reset()

    def close_device(self) -> None:
        """md_close(); what is left of it the core does."""
        self.reset()

    def reset(self) -> None:
        """md_reset_state()."""
        self._arcs.clear()
        self._fail_at = 0
        self._saving = None
        self._resuming = None

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """md_dma_unmap(): note it, and give back what is held there."""
        if len(self._notifications) < MAX_LOG:
            self._notifications.append((iova, size))
        return self.host.unpin_range(iova, size)

    # --- regions (md_rw) ---

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """Refuse an access of no bytes (EINVAL) except in the window and the config space: it is one to a place all the same."""
        left = super().clip_access(index, offset, size, write=write)
        window = WINDOW_OFFSET <= offset < WINDOW_OFFSET + WINDOW_SIZE and not write
        if not left and index != c.VFIO_PCI_CONFIG_REGION_INDEX and not window:
            raise IoctlError(errno.EINVAL, f"nothing to access at {offset:#x}+0")
        return left

    def read_region(self, index: int, offset: int, size: int) -> bytes:
        """Read the last result, the window, or the config space; EINVAL elsewhere."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return self._config[offset : offset + size]
        if offset == 0 and size == COMMAND_SIZE:
            return struct.pack("<8Q", *self._result)
        if WINDOW_OFFSET <= offset < WINDOW_OFFSET + WINDOW_SIZE:
            return bytes(self._window[offset - WINDOW_OFFSET :][:size])
        raise IoctlError(errno.EINVAL, f"nothing to read at {offset:#x}+{size:#x}")

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """Take commands as a whole, and nothing for the config space, whose writes are not looked at; EINVAL for anything else."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return 0
        if offset != 0 or size != COMMAND_SIZE:
            raise IoctlError(errno.EINVAL, f"no command at {offset:#x}+{size:#x}")
        return size

    def write_region(self, index: int, offset: int, data: bytes) -> Steps[None]:
        """Execute a command (md_command); its result, or a negative errno, is read from the region afterwards."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return
        words = struct.unpack("<8Q", data)
        self._result = [0] * 8
        command = self._COMMANDS.get(words[0])
        try:
            result = -errno.EINVAL if command is None else (yield from command(self, words))
        except IoctlError as error:
            result = -error.errno
        self._result[0] = result & U64_MAX

    # --- commands ---

    def _pin(self, words: Words) -> Steps[int]:
        return (yield from self.host.pin(words[1], int32(words[2]), words[3] & 0xFFFFFFFF))

    def _unpin(self, words: Words) -> Steps[int]:
        return (yield from self.host.unpin(words[1], _int64(words[2])))

    def _rw(self, words: Words) -> Steps[int]:
        iova, length, write, byte = words[1:5]
        if length > WINDOW_SIZE:
            raise IoctlError(errno.E2BIG, f"{length} bytes, the window has {WINDOW_SIZE}")
        if write:
            yield from self.host.rw_write(iova, bytes([byte & 0xFF]) * length)
        else:
            self._window[:length] = yield from self.host.rw_read(iova, length)
        return 0

    def _notify(self, words: Words) -> Steps[int]:
        yield from ()
        told, self._notifications = self._notifications, []
        for i, pair in enumerate(told):
            struct.pack_into("<2Q", self._window, 16 * i, *pair)
        return len(told)

    def _log_dirty(self, words: Words) -> Steps[int]:
        yield from ()
        if self._log is None:
            raise IoctlError(errno.EINVAL, "not logging")
        return self._log.mark(words[1], words[2])

    def _tell_arcs(self, words: Words) -> Steps[int]:
        yield from ()
        told, self._arcs = self._arcs, []
        for i, pair in enumerate(told):
            self._window[2 * i : 2 * i + 2] = bytes(pair)
        return len(told)

    def _fail(self, words: Words) -> Steps[int]:
        yield from ()
        self._fail_at = words[1] & 0xFFFFFFFF
        self._fail_errno = int32(words[2])
        return 0

    def _mig_sizes(self, words: Words) -> Steps[int]:
        yield from ()
        self.sizes = Sizes(*words[1:4])
        return 0

    def _irq(self, words: Words) -> Steps[int]:
        return int((yield from self.host.signal_irq(words[1], words[2])))

    def _npinned(self, words: Words) -> Steps[int]:
        yield from ()
        return self.host.npinned

    _COMMANDS: ClassVar[Mapping[int, Callable[["Oracle", Words], Steps[int]]]] = {
        1: _pin,
        2: _unpin,
        3: _rw,
        4: _notify,
        5: _log_dirty,
        6: _tell_arcs,
        7: _fail,
        8: _mig_sizes,
        9: _irq,
        10: _npinned,
    }

    # --- DMA logging ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> int:
        """md_log_start(): this device logs with pages from 4 KiB to 2 MiB, whether that is a power of two or not."""
        if self._log is not None:
            raise IoctlError(errno.EINVAL, f"page_size {page_size:#x}: the device logs already")
        page_size = min(max(page_size, 4 << 10), 2 << 20)
        self._log = DirtyLog(page_size, ranges)
        return page_size

    def log_stop(self) -> None:
        """md_log_stop()."""
        self._log = None

    def log_report(self, iova: int, length: int, sink: DirtySink) -> None:
        """md_log_read_and_clear()."""
        if self._log is None:
            raise IoctlError(
                errno.EINVAL, f"iova {iova:#x}: the device does not log, DMA_LOGGING_START comes first"
            )
        self._log.report(iova, length, sink)

    # --- migration ---

    def arc(self, current: int, target: int) -> SavingStream | ResumingStream | None:
        """md_arc()."""
        if len(self._arcs) < MAX_LOG:
            self._arcs.append((current, target))
        if self._fail_at:
            self._fail_at -= 1
            if not self._fail_at:
                if self._fail_errno:
                    raise IoctlError(
                        abs(self._fail_errno),
                        f"device_state {state_name(target)}: the arc from {state_name(current)} was told to fail",
                    )
                return None
        if target in _PRECOPYING and current in _RUNNING:
            self._saving = OracleSaving(lambda: self.sizes, precopy=True)
            return self._saving
        if current == STOP and target == STOP_COPY:
            self._saving = OracleSaving(lambda: self.sizes, precopy=False)
            return self._saving
        if current == STOP and target == RESUMING:
            self._resuming = OracleResuming(self.sizes.stop)
            return self._resuming
        if current in _PRECOPYING and target == STOP_COPY and self._saving is not None:
            self._saving.precopy = False
        elif current == RESUMING:
            resuming, self._resuming = self._resuming, None
            if resuming is not None and not resuming.acceptable:
                raise StateLost(
                    errno.EINVAL,
                    f"device_state {state_name(target)}: what was written is not a stream of this device",
                )
        return None

    def stop_copy_size(self) -> int:
        """md_data_size()."""
        return self.sizes.stop


_BAR: Final = Region(BAR_SIZE, READ_WRITE)
_CONFIG: Final = Region(CONFIG_SIZE, READ_WRITE)
_REGIONS: Final = (_BAR, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, _CONFIG, ABSENT)
_INTX: Final = Irq(1, c.VFIO_IRQ_INFO_EVENTFD)
_MSI: Final = Irq(4, c.VFIO_IRQ_INFO_EVENTFD | c.VFIO_IRQ_INFO_NORESIZE)
_NO_IRQ: Final = Irq(0, c.VFIO_IRQ_INFO_EVENTFD | c.VFIO_IRQ_INFO_NORESIZE)
_IRQS: Final = (_INTX, _MSI, _NO_IRQ, _NO_IRQ, _NO_IRQ)


def _int64(word: int) -> int:
    return (word ^ (1 << 63)) - (1 << 63)
