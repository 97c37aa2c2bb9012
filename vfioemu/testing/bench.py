# SPDX-License-Identifier: MIT
"""A device on a bench: a model, one process with an fd on it, and 16 MiB of guest memory, without a container.

For the tests of device models, here and elsewhere (docs/devices.md). The memory behind the device is a bytearray that
is mapped from IOVA 0; what was marked dirty and what is pinned can be looked at.
"""

import errno
from collections import Counter
from typing import Any, Final, Generic, TypeVar

from vfioemu.core.base.effects import Buffer, GiveFd, Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import DEFAULT, Profile
from vfioemu.core.files.device import open_device
from vfioemu.core.memory.backend import Backend, PinningDevice
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.migration_v1 import MigrationProtocol
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec
from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.log import DirtyLog
from vfioemu.testing.process import Process, Result
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi.constants import VFIO_DEVICE_FEATURE

NAME: Final = "00000000-0000-4000-8000-000000000001"
GUEST: Final = 16 << 20
Model = TypeVar("Model", bound=DeviceModel)
PAGE: Final = 4096


class BenchIommu(Backend):
    """An IO address space that is guest memory [0, GUEST), all of it readable and writable.

    Args:
        profile: of the kernel.

    Attributes:
        memory: its bytes.
        pins: how often each IOVA is pinned.
        dirty: the pages that were marked; what hardware behind an IOMMU writes is not seen here.
        told: the devices to tell before an unmap.
    """

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self.lock = Lock("container")
        self.profile = profile
        self.memory = bytearray(GUEST)
        self.pins: Counter[int] = Counter()
        self.dirty: set[int] = set()
        self.told: list[PinningDevice] = []

    def register_device(self, device: PinningDevice) -> Steps[None]:
        """Count the first open."""
        yield from locked(self.lock)
        self.told.append(device)
        self.lock.release()

    def unregister_device(self, device: PinningDevice) -> Steps[None]:
        """Count the last close."""
        yield from locked(self.lock)
        self.told.remove(device)
        self.lock.release()

    def pin_pages(self, device: PinningDevice, iova: int, npages: int, prot: int) -> Steps[int]:
        """EINVAL outside."""
        yield from locked(self.lock)
        try:
            self._check(iova, npages * PAGE)
            self.pins.update(range(iova, iova + npages * PAGE, PAGE))
        finally:
            self.lock.release()
        return npages

    def unpin_pages(self, device: PinningDevice, iova: int, npages: int) -> Steps[None]:
        """Never fails."""
        yield from locked(self.lock)
        self.pins.subtract(range(iova, iova + npages * PAGE, PAGE))
        self.pins += Counter()
        self.lock.release()

    def rw_read(self, iova: int, size: int) -> Steps[bytes]:
        """EINVAL outside."""
        yield from locked(self.lock)
        try:
            self._check(iova, size)
            return bytes(self.memory[iova : iova + size])
        finally:
            self.lock.release()

    def rw_write(self, iova: int, data: Buffer) -> Steps[None]:
        """EINVAL outside."""
        yield from locked(self.lock)
        try:
            self._check(iova, len(data))
            self._write(iova, bytes(data))
        finally:
            self.lock.release()

    def rw_batch(self, batch: DmaBatch, log: DirtyLog | None = None) -> Steps[int]:
        """Transfers outside stay undone."""
        yield from locked(self.lock)
        done = 0
        for i, dma in enumerate(batch):
            if dma.iova + dma.size > GUEST:
                batch.set_status(i, Status.SLOW)
                continue
            local = slice(dma.local, dma.local + dma.size)
            if dma.op == Op.READ:
                batch.local[local] = self.memory[dma.iova : dma.iova + dma.size]
            else:
                self._write(dma.iova, bytes(batch.local[local]), seen=dma.op == Op.WRITE)
                if log is not None and dma.op != Op.HIDDEN_WRITE:
                    log.mark(dma.iova, dma.size)
            batch.set_status(i, Status.DONE)
            done += 1
        self.lock.release()
        return done

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """Read; a device on a bench is behind no IOMMU, so that only tests call it."""
        return self.rw_read(iova, size)

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Write, as `rw_write`."""
        return self.rw_write(iova, data)

    def dma_batch(self, batch: DmaBatch, log: DirtyLog | None = None) -> Steps[int]:
        """Make many transfers, as `rw_batch`."""
        return self.rw_batch(batch, log)

    def count_mappings(self) -> int:
        """Count them: all of guest memory is one."""
        return 1

    def _write(self, iova: int, data: bytes, *, seen: bool = True) -> None:
        self.memory[iova : iova + len(data)] = data
        if seen:
            self.dirty.update(range(iova // PAGE, (iova + len(data) - 1) // PAGE + 1))

    def _check(self, iova: int, size: int) -> None:
        if iova + size > GUEST:
            raise IoctlError(errno.EINVAL, f"{iova:#x}+{size:#x} is not mapped")


class BenchGroup:
    """A group of one device without an IOMMU, in a container (a `DeviceGroup`).

    Attributes:
        backend: its IO address space; None is a container before SET_IOMMU.
        attached: whether it is in a container.
        users: open devices.
    """

    spec = GroupSpec(number=1)
    number = 1
    iommu = None
    behind_iommu = False

    def __init__(self, backend: "BenchIommu") -> None:
        self.backend: BenchIommu | None = backend
        self.attached = True
        self.users = 0

    @property
    def profile(self) -> Profile:
        """The kernel release of the backend."""
        return DEFAULT if self.backend is None else self.backend.profile

    def device_opened(self) -> None:
        """Count the first open."""
        self.users += 1

    def device_closed(self) -> Steps[None]:
        """Count the last close."""
        yield from ()
        self.users -= 1


class _NoNodes:
    def open(self, caller: object, path: str) -> Steps[File]:
        raise IoctlError(errno.ENOENT, path)


class Bench(Generic[Model]):
    """The bench: the device is open, `fd` is its fd, `arg` an address where payloads are put.

    Args:
        model: what to test.
        scheduler: of a test that interleaves calls.
        name: the device's name.
        migration: the protocol by which it migrates; v2 unless told otherwise.
    """

    def __init__(
        self,
        model: Model,
        scheduler: Scheduler | None = None,
        name: str = NAME,
        migration: MigrationProtocol | None = None,
    ) -> None:
        self.iommu = BenchIommu()
        self.group = BenchGroup(self.iommu)
        self.model = model
        spec = DeviceSpec(symbol="dev", name=name, group=1, model="bench")
        self.device = Device(spec, model, self.group, migration)
        self.process = Process(_NoNodes(), scheduler=scheduler)
        self.arg = self.process.memory.allocate(64 << 10)
        self.fd = self.open()

    def open(self) -> int:
        """Open the device once more; returns the fd."""
        file = self.run(open_device(self.device))
        number: int = self.run(_give(file))
        return number

    def run(self, steps: Steps[Any]) -> Any:
        """Drive any handler or callback to its end."""
        return self.process.scheduler.call(steps, self.process)

    def ioctl(self, cmd: int, payload: bytes = b"", fd: int | None = None) -> Result:
        """Make an ioctl whose argument points to `payload`."""
        self.process.memory.write(self.arg, payload)
        return self.process.ioctl(self.fd if fd is None else fd, cmd, self.arg)

    def answer(self, size: int, offset: int = 0) -> bytes:
        """Return `size` bytes of the argument as they are now."""
        return self.process.memory.read(self.arg + offset, size)

    def pread(self, size: int, offset: int) -> bytes:
        """pread(2) of the device fd.

        Raises:
            OSError: with the errno's name.
        """
        result = self.process.pread(self.fd, self.arg, size, offset)
        if result.err is not None:
            raise OSError(result.err)
        return self.answer(result.ret)

    def pwrite(self, data: bytes, offset: int) -> Result:
        """pwrite(2) to the device fd."""
        self.process.memory.write(self.arg, data)
        return self.process.pwrite(self.fd, self.arg, len(data), offset)

    def feature(self, flags: int, payload: bytes = b"") -> tuple[Result, bytes]:
        """VFIO_DEVICE_FEATURE with a large enough argsz: the result, and the payload as it is afterwards."""
        header = (8 + len(payload)).to_bytes(4, "little") + flags.to_bytes(4, "little")
        result = self.ioctl(VFIO_DEVICE_FEATURE, header + payload)
        return result, self.answer(len(payload), 8)


def _give(file: File) -> Steps[int]:
    number: int = yield GiveFd(file)
    return number
