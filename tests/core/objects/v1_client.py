# SPDX-License-Identifier: MIT
"""A device that can be moved, and a client of the migration region as QEMU 7.2 is one."""

import errno
import mmap
import struct

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.regions import READ_WRITE, Region
from vfioemu.core.model.streams import (
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
)
from vfioemu.core.objects.migration_v1 import DATA_OFFSET, DATA_SIZE, REGION_SIZE
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

BASE = 9 << 40
FEATURE_SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


class Box(DeviceModel):
    """Has contents; pre-copy offers them as they are when it begins, stop-copy all of them again."""

    def __init__(self, contents=b"", flags=7, limit=4 << 20, empty_error=errno.ENOMSG):
        super().__init__({})
        self.contents = contents
        self.migration_flags = flags
        self.limit = limit
        self.empty_error = empty_error
        self.saving = self.loading = None
        self.fail = {}
        self.arcs = []
        self.streams = 0

    def regions(self):
        return (Region(16, READ_WRITE), Region(0))

    def arc(self, current, target):
        if error := self.fail.pop((current, target), None):
            raise error
        self.arcs.append((current, target))
        if target in (PRE_COPY, PRE_COPY_P2P) and current not in (PRE_COPY, PRE_COPY_P2P):
            self.streams += 1
            self.saving = BoxSaving(b"P" + self.contents, self.empty_error)
            return self.saving
        if (current, target) == (STOP, STOP_COPY):
            self.streams += 1
            self.saving = BoxSaving(b"", None)
            self.saving.finish(self.contents)
            return self.saving
        if target == STOP_COPY and current != STOP_COPY:
            self.saving.finish(self.contents)
        if (current, target) == (STOP, RESUMING):
            self.loading = BoxLoading(self.limit)
            return self.loading
        if current == RESUMING:
            self.contents = self.loading.result()
        return None

    def stop_copy_size(self):
        return len(self.contents) + 12


def final(contents):
    """The record that ends a stream."""
    return b"F" + struct.pack("<Q", len(contents)) + contents + b"END"


class BoxSaving(SavingStream):
    def __init__(self, data, empty_error):
        self.data = data
        self.live = True
        self.empty_error = empty_error

    def finish(self, contents):
        self.live = False
        self.data += final(contents)

    def peek(self, size):
        if not self.data and self.live and self.empty_error:
            raise IoctlError(self.empty_error, "no more for now")
        return self.data[:size]

    def advance(self, size):
        self.data = self.data[size:]

    def precopy_info(self):
        if not self.live:
            raise IoctlError(errno.EINVAL, "not in pre-copy")
        return len(self.data), 0


class BoxLoading(ResumingStream):
    chunk = 4096

    def __init__(self, limit):
        self.data = b""
        self.limit = limit

    def reserve(self, size):
        if len(self.data) + size > self.limit:
            raise IoctlError(errno.ENOMEM, f"{len(self.data)} + {size} bytes, at most {self.limit}")

    def append(self, data):
        self.data += data

    def result(self):
        for at in range(len(self.data)):  # the last record is the one that ends the stream
            if self.data[at : at + 1] == b"F" and len(self.data) - at >= 12:
                (size,) = struct.unpack_from("<Q", self.data, at + 1)
                if at + 12 + size == len(self.data) and self.data.endswith(b"END"):
                    return self.data[at + 9 : -3]
        raise IoctlError(errno.EINVAL, f"{len(self.data)} bytes, and not the end of a stream")


class Client:
    """A client of the region, with pread and pwrite or with the data section mapped."""

    def __init__(self, model, mapped=False, scheduler=None):
        self.bench = Bench(model, scheduler, migration="v1")
        self.model = model
        self.map = None
        if mapped:
            file = self.bench.process.fds[self.bench.fd].what
            mapped = self.bench.run(
                file.mmap(self.bench.process.caller, BASE + DATA_OFFSET, DATA_SIZE, 3, shared=True)
            )
            self.map = mmap.mmap(mapped.fd, DATA_SIZE)

    def read(self, offset, size):
        return int.from_bytes(self.bench.pread(size, BASE + offset), "little")

    def write(self, offset, size, value):
        return self.bench.pwrite(value.to_bytes(size, "little"), BASE + offset)

    @property
    def state(self):
        return self.read(0, 4)

    def set_state(self, mask, value):
        """QEMU 7.2: read, modify, write."""
        return self.write(0, 4, (self.state & mask) | value)

    @property
    def pending(self):
        return self.read(8, 8)

    @property
    def data_offset(self):
        return self.read(16, 8)

    @property
    def data_size(self):
        return self.read(24, 8)

    def get(self, size):
        """The data, where data_offset says that it is."""
        if self.map is not None:
            return self.map[:size]
        data = b""
        while len(data) < size:
            n = min(size - len(data), 32768)
            data += self.bench.pread(n, BASE + DATA_OFFSET + len(data))
        return data

    def put(self, data):
        """Put data into the data section."""
        if self.map is not None:
            self.map[: len(data)] = data
            return
        for at in range(0, len(data), 32768):
            assert self.bench.pwrite(data[at : at + 32768], BASE + DATA_OFFSET + at).err is None

    def save_piece(self):
        """vfio_save_buffer(): one piece, or nothing."""
        if not self.pending:
            return b""
        assert self.data_offset == DATA_OFFSET
        return self.get(self.data_size)

    def save_all(self):
        pieces = []
        while piece := self.save_piece():
            pieces.append(piece)
        return pieces

    def load_piece(self, piece):
        """vfio_load_buffer(): in parts, if it does not fit."""
        while piece:
            offset = self.data_offset
            part, piece = piece[: REGION_SIZE - offset], piece[REGION_SIZE - offset :]
            self.put(part)
            result = self.write(24, 8, len(part))
            if result.err:
                return result
        return None


def migrate(source, destination):
    """As QEMU 7.2 does it; returns the pieces."""
    assert source.set_state(0, 3).err is None  # the mask clears reserved bits
    pieces = source.save_all()
    assert source.set_state(~1 & 0xFFFFFFFF, 2).err is None  # the guest stops
    assert source.set_state(~1 & 0xFFFFFFFF, 2).err is None  # ... and is told so again
    pieces += source.save_all()
    assert source.pending == 0
    assert source.set_state(~2 & 0xFFFFFFFF, 0).err is None
    assert destination.set_state(0xFFFFFFF8, 4).err is None
    for piece in pieces:
        assert destination.load_piece(piece) is None
    assert destination.set_state(0xFFFFFFF8, 1).err is None
    return pieces
