# SPDX-License-Identifier: MIT
"""Migration v1: the region protocol (type 3, subtype 1) that came before VFIO_DEVICE_FEATURE, for any model.

No driver of the kernel ever had it; its rules are those of the comment in <linux/vfio.h> of Linux 5.8 to 5.17, and the
client that speaks it is QEMU up to 7.2. It is another way to the same arcs and streams: a state of v1 is a state of v2,
and what a data fd would carry goes through a data section in the region.

======  ====  =============  ========================================================================================
offset  size  field
======  ====  =============  ========================================================================================
0       4     device_state   bit 0 running, bit 1 saving, bit 2 resuming; saving and resuming together: an error
4       4     reserved       reads 0, writes are ignored
8       8     pending_bytes  what can be saved still; reading it takes back the piece that was told by data_size
16      8     data_offset    where the data section is; reading it while saving puts the next piece there
24      8     data_size      saving: the length of that piece; resuming: written, it says how much was put there
4096    1 Mi  data section   may be mapped; everything before it is trapped
======  ====  =============  ========================================================================================

The fields are accessed with their own width; everything else is EINVAL.

A model without PRE_COPY can be asked to save while it runs, as the protocol wants: it then has nothing to save until it
is stopped. A write of device_state that fails leaves the state as it was; arcs that have been made by then are made
back, and if that is impossible the device is in error until it is reset.
"""

import contextlib
import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from vfioemu.core.base.effects import MaybeSteps, SharedMemory, Steps, allocate_pages, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.model import regions
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.core.model.regions import Region
from vfioemu.core.model.streams import (
    ERROR,
    PRE_COPY,
    RESUMING,
    RUNNING,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
)
from vfioemu.core.objects.migration import Migration, Session
from vfioemu.uapi import constants as c

if TYPE_CHECKING:
    from vfioemu.core.base.locks import Lock

MigrationProtocol: TypeAlias = Literal["v1", "v2", "none"]
"""How a device migrates: by the region, by VFIO_DEVICE_FEATURE, or not at all."""

V1_RUNNING: Final = 1
V1_SAVING: Final = 2
V1_RESUMING: Final = 4
V1_MASK: Final = 7
V1_ERROR: Final = V1_SAVING | V1_RESUMING

DATA_OFFSET: Final = 0x1000
DATA_SIZE: Final = 1 << 20
REGION_SIZE: Final = DATA_OFFSET + DATA_SIZE
_FIELDS: Final = {0: 4, 4: 4, 8: 8, 16: 8, 24: 8}
_DEVICE_STATE, _RESERVED, _PENDING_BYTES, _DATA_OFFSET, _DATA_SIZE = _FIELDS

_READ_WRITE_MMAP: Final = (
    c.VFIO_REGION_INFO_FLAG_READ | c.VFIO_REGION_INFO_FLAG_WRITE | c.VFIO_REGION_INFO_FLAG_MMAP
)
_REGION: Final = Region(
    REGION_SIZE,
    _READ_WRITE_MMAP,
    (
        (
            c.VFIO_REGION_INFO_CAP_TYPE,
            1,
            struct.pack(
                "<II", c.VFIO_REGION_TYPE_MIGRATION_DEPRECATED, c.VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED
            ),
        ),
        (c.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, struct.pack("<IIQQ", 1, 0, DATA_OFFSET, DATA_SIZE)),
    ),
)


def take_option(options: dict[str, object]) -> MigrationProtocol | None:
    """Take the option `migration` out of a device's options, if it names a protocol; None if it is not there.

    A model may have an option of that name itself, as long as its values are no strings.

    Raises:
        ValueError: a string that names none.
    """
    value = options.get("migration")
    if not isinstance(value, str):
        return None
    del options["migration"]
    for protocol in ("v1", "v2", "none"):
        if value == protocol:
            return protocol
    raise ValueError(f"migration: 'v1', 'v2' or 'none', not {value!r}")


class RegionsWithMigration:
    """The regions of a model and, behind them, the migration region; it stands where the model would.

    Args:
        model: the device.
        migration: its state; the region is the only way to it.
        lock: the device's.

    Attributes:
        index: of the migration region; device specific regions of a PCI device begin at 9.
    """

    def __init__(self, model: DeviceModel, migration: Migration, lock: "Lock") -> None:
        self._model = model
        self._migration = migration
        self._lock = lock
        self._state = V1_RUNNING
        self._kept = 0  # reserved bits of device_state
        self._pages: SharedMemory | None = None
        self._staged = 0  # bytes of the stream that are in the data section and have not been taken back
        self._told = False  # whether data_size has told of them
        self._of: Session | None = None  # the session that they are of

    @property
    def index(self) -> int:
        """See the class."""
        return max(len(self._model.regions()), c.VFIO_PCI_NUM_REGIONS)

    def reset(self) -> None:
        """Return to the running state, as after the first open."""
        self._state = V1_RUNNING
        self._kept = 0
        self._forget()

    def close(self) -> None:
        """Drop the data section as well, at the last close."""
        self.reset()
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    # --- what stands where the model would (core/model/regions.py) ---

    @property
    def quirks(self) -> DriverQuirks:
        """As the model, as far as its regions go."""
        quirks = self._model.quirks
        below = min(quirks.pieces_below, self.index)
        return quirks if below == quirks.pieces_below else replace(quirks, pieces_below=below)

    def regions(self) -> Sequence[Region | None]:
        """Return the model's regions and the migration region."""
        own = self._model.regions()
        return (*own, *[None] * (self.index - len(own)), _REGION)

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """Clip an access to the migration region as to any other; leave the rest to the model."""
        if index != self.index:
            return self._model.clip_access(index, offset, size, write=write)
        return regions.clip_access(self, index, offset, size, write=write)

    def next_piece(self, index: int, offset: int, left: int) -> int:
        """As the model."""
        return self._model.next_piece(index, offset, left) if index != self.index else left

    def unit(self, index: int, offset: int, left: int) -> int:
        """As the model; the migration region copies at once."""
        return self._model.unit(index, offset, left) if index != self.index else left

    def reads_show(self, index: int) -> bool:
        """As the model."""
        return index != self.index and self._model.reads_show(index)

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """EINVAL for what is neither a field that can be written nor in the data section."""
        if index != self.index:
            return self._model.accept_write(index, offset, size)
        if offset < DATA_OFFSET:
            self._refuse_width(offset, size)
            if offset in (_PENDING_BYTES, _DATA_OFFSET):
                raise IoctlError(errno.EINVAL, f"the field at {offset} cannot be written")
        return size

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a field, or bytes of the data section."""
        if index != self.index:
            return self._model.read_region(index, offset, size)
        if offset >= DATA_OFFSET:
            start = offset - DATA_OFFSET
            return bytes(size) if self._pages is None else self._pages.view[start : start + size]
        self._refuse_width(offset, size)
        return self._read_field(offset)

    def write_region(self, index: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write a field, or bytes of the data section."""
        if index != self.index:
            return self._model.write_region(index, offset, data)
        if offset >= DATA_OFFSET:
            return self._put(offset - DATA_OFFSET, data)
        value = int.from_bytes(data, "little")
        if offset == _DEVICE_STATE:
            return self._set_state(value)
        if offset == _DATA_SIZE:
            return self._load(value)
        return None  # reserved

    def map_region(self, index: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """Pages of the data section."""
        if index != self.index:
            return self._model.map_region(index, offset, size, prot)
        start = offset - DATA_OFFSET
        if start < 0 or start % 4096:
            raise IoctlError(errno.EINVAL, f"offset {offset:#x}: the data section begins at {DATA_OFFSET:#x}")
        return self._map(start)

    def _put(self, start: int, data: bytes) -> Steps[None]:
        pages = yield from self._data()
        pages.view[start : start + len(data)] = data

    def _map(self, start: int) -> Steps[Mapped]:
        return Mapped((yield from self._data()).fd, start)

    # --- fields ---

    @staticmethod
    def _refuse_width(offset: int, size: int) -> None:
        if _FIELDS.get(offset) != size:
            raise IoctlError(errno.EINVAL, f"no field of {size} bytes at {offset:#x} of the migration region")

    def _read_field(self, offset: int) -> Steps[bytes]:
        """One field, whole."""
        value = 0
        if offset == _DEVICE_STATE:
            # A transition holds it to its end: nobody reads a state in the middle of one.
            yield from locked(self._lock)
            try:
                low = V1_ERROR if self._migration.state == ERROR else self._state
                value = self._kept | low
            finally:
                self._lock.release()
        elif offset == _DATA_OFFSET:
            yield from self._saving(self._stage)
            value = DATA_OFFSET
        elif offset == _PENDING_BYTES:
            value = yield from self._saving(self._take_back)
        elif offset == _DATA_SIZE:
            value = yield from self._saving(self._tell)
        return value.to_bytes(_FIELDS[offset], "little")

    # --- saving ---

    def _saving(self, action: Callable[[SavingStream], Steps[int]]) -> Steps[int]:
        """Do `action` with the stream that is being saved, which nobody else touches meanwhile; 0 if there is none."""
        session = self._migration.session
        if session is None or not isinstance(session.stream, SavingStream):
            return 0
        # Two accesses would stage the same piece, as each may wait for pages. A transition waits, or has ended the session before.
        yield from locked(session.lock)
        try:
            if session.ended:
                return 0
            if session is not self._of:
                self._forget()
                self._of = session
            return (yield from action(session.stream))
        finally:
            session.lock.release()

    def _stage(self, stream: SavingStream) -> Steps[int]:
        """Put the next piece into the data section, if the last one has been taken back; returns its length."""
        if not self._staged:
            piece = _peek(stream)
            if piece:
                pages = yield from self._data()
                pages.view[: len(piece)] = piece
                stream.advance(len(piece))
                self._staged = len(piece)
        return self._staged

    def _tell(self, stream: SavingStream) -> Steps[int]:
        """data_size: from now on the client can have read the piece."""
        self._told = (yield from self._stage(stream)) > 0
        return self._staged

    def _take_back(self, stream: SavingStream) -> Steps[int]:
        """pending_bytes: the client has read what it was told of; returns how much there is besides, about."""
        yield from ()
        if self._told:
            self._staged = 0
            self._told = False
        left = len(_peek(stream))
        if left == DATA_SIZE:  # there may be more than could be seen
            left = max(left, self._estimate(stream))
        return self._staged + left

    def _estimate(self, stream: SavingStream) -> int:
        if self._migration.state == STOP_COPY:
            return self._model.stop_copy_size()
        return sum(stream.precopy_info())

    def _forget(self) -> None:
        """Forget what is in the data section: it belongs to no session any more."""
        self._staged = 0
        self._told = False
        self._of = None

    # --- resuming ---

    def _load(self, size: int) -> Steps[None]:
        """data_size: give the device `size` bytes of the data section."""
        session = self._migration.session
        if session is None or not isinstance(session.stream, ResumingStream):
            if self._migration.state == ERROR:
                raise IoctlError(errno.EIO, "the device is in error until it is reset")
            raise IoctlError(errno.EINVAL, f"data_size written in device_state {self._state}: not resuming")
        if size > DATA_SIZE:
            raise IoctlError(errno.EINVAL, f"data_size {size} > {DATA_SIZE}")
        # As for a write to a data fd of v2: a transition waits, or has ended the session before.
        yield from locked(session.lock)
        try:
            session.refuse_ended()
            pages = yield from self._data()
            data = pages.view[:size]
            for at in range(0, size, session.stream.chunk):
                piece = data[at : at + session.stream.chunk]
                session.stream.reserve(len(piece))
                session.stream.append(piece)
        finally:
            session.lock.release()

    def _data(self) -> Steps[SharedMemory]:
        """Return the data section; make it on first use, since most devices never migrate. ENOMEM."""
        pages = self._pages
        return (
            pages
            if pages is not None
            else self._keep((yield from allocate_pages("vfio-migration", DATA_SIZE)))
        )

    def _keep(self, made: SharedMemory) -> SharedMemory:
        """Keep a new data section, unless another access has made one meanwhile: an access holds no lock."""
        if self._pages is None:
            self._pages = made
        else:
            made.close()
        return self._pages

    # --- device_state ---

    def _set_state(self, value: int) -> Steps[None]:
        """device_state: make the transition before the write returns.

        Raises:
            IoctlError: EIO in error, EINVAL for no state, the model's.
        """
        low = value & V1_MASK
        # The device's lock, which SET_IRQS, resets and the feature of v2 take: none of them may meet a half-made transition.
        yield from locked(self._lock)
        try:
            if self._migration.state == ERROR:
                raise IoctlError(errno.EIO, "the device is in error until it is reset")
            if low & V1_RESUMING and low != V1_RESUMING:
                raise IoctlError(errno.EINVAL, f"device_state {low}: resuming excludes running and saving")
            if low != self._state:
                yield from self._go(self._v2_state(low))
                self._state = low
            self._kept = value & ~V1_MASK
        finally:
            self._lock.release()

    def _v2_state(self, low: int) -> int:
        """Translate a state of v1 to v2; without PRE_COPY a device that is to save while it runs just runs."""
        if low == V1_RUNNING | V1_SAVING:
            return PRE_COPY if self._model.migration_flags & c.VFIO_MIGRATION_PRE_COPY else RUNNING
        return {0: STOP, V1_RUNNING: RUNNING, V1_SAVING: STOP_COPY, V1_RESUMING: RESUMING}[low]

    def _go(self, target: int) -> Steps[None]:
        """Make the arcs to `target`; if one fails, be again where it began, or in error."""
        migration = self._migration
        before = migration.state
        try:
            if (before, target) == (STOP_COPY, PRE_COPY):  # v2 has no way
                yield from migration.set_state(RUNNING)
            yield from migration.set_state(target)
        except IoctlError:
            if before != RESUMING or migration.state == RESUMING:
                with contextlib.suppress(IoctlError):
                    yield from migration.set_state(before)
            if migration.state != before:  # what had been loaded cannot be loaded again
                yield from migration.lose()
            raise


def _peek(stream: SavingStream) -> bytes:
    """Return the next bytes of a stream, as many as the data section holds; none if there are none for now."""
    try:
        return stream.peek(DATA_SIZE)
    except IoctlError as error:
        if error.errno != errno.ENOMSG:
            raise
        return b""
