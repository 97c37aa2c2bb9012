# SPDX-License-Identifier: MIT
"""The clients of a world and the machine that they use."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from tests.fuzzing.model import PAGE
from vfioemu.core.base.profile import Quirks
from vfioemu.core.base.userrange import TASK_SIZE_MAX
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.testing.process import Process
from vfioemu.testing.scheduler import Scheduler

RANGES: Final = ((0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1))
IOMMU: Final = IommuSpec(address_bits=48, pgsizes=0x40201000, reserved=((0xFEE0_0000, 0xFEEF_FFFF),))
DATA_PAGES: Final = 48
ARGUMENT_SIZE: Final = 8 * PAGE
BITMAP_SIZE: Final = 4 * PAGE
ADDRESS_END: Final = TASK_SIZE_MAX
"""End of user addresses."""

VFIO_PCI: Final = "vfio-pci"

OTHERS: Final[Mapping[str, tuple[str, Mapping[str, object]]]] = MappingProxyType(
    {
        VFIO_PCI: (VFIO_PCI, {}),
        "dma-engine-1": ("dma-engine", {"type": 1}),
        "dma-engine-2": ("dma-engine", {"type": 2}),
        "dma-engine-3": ("dma-engine", {"type": 3}),
        "dma-engine-v1": ("dma-engine", {"type": 1, "migration": "v1"}),
        "oracle-v1": ("oracle", {"variant": "migspc", "migration": "v1"}),
        "mtty-v1": ("mtty", {"ports": 2, "migration": "v1"}),
        "mtty-1": ("mtty", {"ports": 1}),
        "mtty-2": ("mtty", {"ports": 2}),
        "edu": ("edu", {}),
        "e1000e": ("e1000e", {}),
        "nvme": ("nvme", {}),
    }
)
"""Devices that are no oracles: model and options."""
PASSIVE: Final = frozenset({VFIO_PCI, "mtty-1", "mtty-2", "mtty-v1"})
"""Those of them that reach no memory."""

PCI: Final = frozenset({VFIO_PCI, "edu", "e1000e", "nvme"})
"""Those that are found by a PCI address."""

Layout: TypeAlias = tuple[tuple[str, bool], ...]
"""Of each device: its variant (of the oracle model, or of `OTHERS`), and whether an IOMMU is in front of it."""

LAYOUT: Final[Layout] = (
    ("basic", False),
    ("basic", False),
    ("nounmap", False),
    ("migspc", True),
    ("migspc", True),
)


def device_name(number: int, variant: str) -> str:
    """What GET_DEVICE_FD calls a device of a world."""
    return f"0000:00:{number:02x}.0" if variant in PCI else f"device-{number}"


def machine_spec(layout: Layout, quirks: Quirks, limit: int) -> MachineSpec:
    """The machine of a world: each device in its own group."""
    return MachineSpec(
        groups=tuple(
            GroupSpec(number=n, iommu=IOMMU if backed else None) for n, (_, backed) in enumerate(layout)
        ),
        devices=tuple(
            DeviceSpec(
                symbol=f"d{n}",
                name=device_name(n, variant),
                group=n,
                model=OTHERS[variant][0] if variant in OTHERS else "oracle",
                options=OTHERS[variant][1] if variant in OTHERS else {"variant": variant},
            )
            for n, (variant, _) in enumerate(layout)
        ),
        quirks=quirks,
        memlock="client",
        dma_entry_limit=limit,
    )


class Client:
    """A process, and what must be in its memory: `model.Space`."""

    def __init__(self, machine: Machine, pid: int, scheduler: Scheduler | None = None) -> None:
        self.process = Process(machine, pid=pid, scheduler=scheduler)
        memory = self.process.memory
        self.argument = memory.allocate(ARGUMENT_SIZE)
        self.bitmap = memory.allocate(BITMAP_SIZE)
        self.data = memory.allocate(DATA_PAGES * PAGE)
        self.contents = bytearray(DATA_PAGES * PAGE)
        self.alive = True

    def accessible(self, vaddr: int, size: int, *, write: bool) -> int:
        """How many bytes from vaddr on may be read or written."""
        return self.process.memory.accessible(vaddr, size, write=write) if self.alive else 0

    def dma_write(self, vaddr: int, data: bytes) -> None:
        """A device wrote here."""
        at = vaddr - self.data
        if 0 <= at < len(self.contents):
            self.contents[at : at + len(data)] = data

    def expected(self, vaddr: int, size: int) -> bytes:
        """What must be there."""
        at = vaddr - self.data
        if 0 <= at < len(self.contents):
            return bytes(self.contents[at : at + size])
        return self.process.memory.peek(vaddr, size) if size else b""


class FlatBitmap:
    """A bitmap in good memory: `model.UserBitmap`."""

    def __init__(self, data: bytearray, pgsize: int) -> None:
        self.data = data
        self.pgsize = pgsize
        self.size = len(data)
        self.valid = True

    def load(self, offset: int) -> int:
        """The 64-bit word at a byte offset."""
        return int.from_bytes(self.data[offset : offset + 8], "little")

    def store(self, offset: int, data: bytes) -> None:
        """Write bytes."""
        self.data[offset : offset + len(data)] = data
