# SPDX-License-Identifier: MIT
"""What an oracle device must answer to VFIO_DEVICE_FEATURE, and what its data fds give: the model once more.

As in expect.py, the call is made on the model first; what it answers is held against the core's answer and against what
the caller finds in memory.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from tests.fuzzing import model
from tests.fuzzing.client import ADDRESS_END, Client
from tests.fuzzing.model import PAGE, Refusal, oracle
from vfioemu.testing.process import Result
from vfioemu.uapi import constants as c

GET, SET, PROBE = c.VFIO_DEVICE_FEATURE_GET, c.VFIO_DEVICE_FEATURE_SET, c.VFIO_DEVICE_FEATURE_PROBE
KNOWN: Final = c.VFIO_DEVICE_FEATURE_MASK | GET | SET | PROBE
MIGRATION, STATE, START, STOP, REPORT, DATA_SIZE = 1, 2, 6, 7, 8, 9
OPERATIONS: Final = {MIGRATION: GET, STATE: GET | SET, DATA_SIZE: GET, START: SET, STOP: SET, REPORT: GET}
SIZES: Final = {MIGRATION: 8, STATE: 8, DATA_SIZE: 8, START: 24, STOP: 0, REPORT: 32}
MAX_RANGES: Final = 256
MAX_REPORT: Final = 1 << 26


class FeatureExpectation:
    """The model's answer to one VFIO_DEVICE_FEATURE.

    Attributes:
        opens: the call gives out a data fd.
    """

    def __init__(self, client: Client, device: model.Device, arg: int) -> None:
        self.opens = False
        self._client = client
        self._device = device
        self._arg = arg
        self._memory = client.process.memory
        self._written: dict[int, bytes] = {}
        self._wanted: oracle.Log | None = None

    def answer(self) -> Result | None:
        """Make the call on the model: what it answers, None if it cannot say."""
        try:
            return self._answer()
        except Refusal as refusal:
            return Result(-1, refusal.err)

    def check(self) -> None:
        """The core must have written the same."""
        for address, data in self._written.items():
            got = self._memory.peek(address, len(data))
            assert got == data, f"at {address:#x}: {got.hex()}, not {data.hex()}"

    def finish(self, result: Result) -> None:
        """The core has answered."""
        if self._wanted is not None and result.err is None:
            assert self._device.log is None, "logging begins twice"
            self._device.log = self._wanted

    def _answer(self) -> Result | None:
        argsz, flags = struct.unpack("<II", self._read(0, 8))
        asked, number = flags & (GET | SET), flags & c.VFIO_DEVICE_FEATURE_MASK
        if argsz < 8 or flags & ~KNOWN or (asked == GET | SET and not flags & PROBE):
            raise Refusal("EINVAL")
        if not self._has(number):
            raise Refusal("ENOTTY")
        if asked & ~OPERATIONS[number]:
            raise Refusal("EINVAL")
        if flags & PROBE:
            return Result(0)
        if not asked or argsz < 8 + SIZES[number]:
            raise Refusal("EINVAL")
        if number == STATE:
            return self._state(asked)
        calls: Mapping[int, Callable[[], Result | None]] = {
            MIGRATION: self._flags,
            DATA_SIZE: self._data_size,
            START: self._start,
            STOP: self._stop,
            REPORT: self._report,
        }
        return calls[number]()

    def _has(self, number: int) -> bool:
        if number in (START, STOP, REPORT):
            return self._device.logs
        return self._device.migration is not None and number in (MIGRATION, STATE, DATA_SIZE)

    # --- migration ---

    def _flags(self) -> Result:
        assert self._device.migration is not None
        return self._write(8, struct.pack("<Q", self._device.migration.flags))

    def _data_size(self) -> Result:
        assert self._device.migration is not None
        return self._write(8, struct.pack("<Q", self._device.migration.stop_size))

    def _state(self, asked: int) -> Result:
        migration = self._device.migration
        assert migration is not None
        (target,) = struct.unpack("<I4x", self._read(8, 8))
        if asked == GET:
            return self._write(8, struct.pack("<Ii", migration.state, -1))
        refusal = None
        migration.opened = False
        try:
            migration.set(target)
        except Refusal as error:
            refusal = error
        if refusal is None and migration.opened:
            self.opens = True
            written = self._write(8, struct.pack("<I", target))  # the fd's number is the core's
            self._writable(8, 8)
            return written
        self._write(8, struct.pack("<Ii", target, -1))
        if refusal is not None:
            raise refusal
        return Result(0)

    # --- DMA logging ---

    def _start(self) -> None:
        """Whether it succeeds the core says; what is logged then is known from here."""
        page_size, count, _, address = struct.unpack("<QIIQ", self._read(8, 24))
        data = self._memory.read(address, 16 * min(count, MAX_RANGES))
        self._wanted = oracle.Log(PAGE, (), known=False)
        if 0 < count <= MAX_RANGES and len(data) == 16 * count and not page_size & (page_size - 1):
            ranges = [struct.unpack_from("<QQ", data, 16 * i) for i in range(count)]
            self._wanted = oracle.begin_log(page_size, tuple((iova, length) for iova, length in ranges))

    def _stop(self) -> Result:
        self._device.log = None
        return Result(0)

    def _report(self) -> Result | None:
        iova, length, page_size, address = struct.unpack("<4Q", self._read(8, 32))
        log = self._device.log
        if page_size < PAGE or page_size & (page_size - 1):
            raise Refusal("EINVAL")
        if iova + length >= 1 << 64:
            raise Refusal("EOVERFLOW")
        if log is None:
            raise Refusal("EINVAL")
        nbytes = -(-length // page_size // 8)
        plain = length and not iova % page_size and length <= MAX_REPORT and address + nbytes <= ADDRESS_END
        if not log.known or not plain or self._memory.accessible(address, nbytes, write=True) < nbytes:
            log.known = False
            return None
        old = int.from_bytes(self._memory.read(address, nbytes), "little")
        new = old | log.take(iova, length, page_size)
        self._written[address] = new.to_bytes(nbytes + 8, "little")[:nbytes]
        return Result(0)

    # --- memory ---

    def _read(self, offset: int, size: int) -> bytes:
        data = self._memory.read(self._arg + offset, size)
        if len(data) < size:
            raise Refusal("EFAULT")
        return data

    def _writable(self, offset: int, size: int) -> None:
        if self._memory.accessible(self._arg + offset, size, write=True) < size:
            self.opens = False
            raise Refusal("EFAULT")

    def _write(self, offset: int, data: bytes) -> Result:
        self._writable(offset, len(data))
        self._written[self._arg + offset] = data
        return Result(0)
