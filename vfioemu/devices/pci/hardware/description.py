# SPDX-License-Identifier: MIT
"""The parts of a PCI function, as data: identity, BARs, capabilities. A model states it once and never changes it.

Capabilities are given in the order of their chain. Where they lie in config space is up to us unless `at` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.devices.pci.hardware import registers as r

BarKind: TypeAlias = Literal["mem32", "mem64", "io"]

_SMALLEST_MEMORY: Final = 16
_SMALLEST_IO: Final = 4
_LARGEST_IO: Final = 256


@dataclass(frozen=True, slots=True)
class Bar:
    """A base address register.

    Attributes:
        size: in bytes, a power of two.
        kind: "mem32"; "mem64", which takes this index and the next; "io".
        areas: the (offset, size) parts that may be mapped, page aligned; None for all of it as vfio-pci has it (see
            mappable.py), () for nothing.
        prefetchable: the bit of that name.
        registers: how many bytes from its beginning are asked of the model; None for all.
        beyond: what reads give behind them, where writes are lost.
        address: where firmware has put it on the bus; None for a place of our choice.
        memory: the model takes reads and writes of any size and alignment.
        narrow: accesses of 64 bits arrive as two of 32, the lower one first; I/O ports are always like that.
    """

    size: int
    kind: BarKind = "mem32"
    areas: tuple[tuple[int, int], ...] | None = None
    prefetchable: bool = False
    registers: int | None = None
    beyond: int = 0
    address: int | None = None
    memory: bool = False
    narrow: bool = False

    def __post_init__(self) -> None:
        if self.kind == "io":
            object.__setattr__(self, "narrow", True)
        least = _SMALLEST_IO if self.kind == "io" else _SMALLEST_MEMORY
        if self.size < least or self.size & (self.size - 1):
            raise ValueError(f"a {self.kind} BAR of {self.size:#x} bytes")
        if self.kind == "io" and (self.size > _LARGEST_IO or self.areas):
            raise ValueError(f"an I/O BAR of {self.size:#x} bytes, or one to be mapped")
        for offset, size in self.areas or ():
            if (
                offset % PAGE_SIZE
                or size % PAGE_SIZE
                or size <= 0
                or not 0 <= offset <= self.mapped_size - size
            ):
                raise ValueError(f"the area {offset:#x}+{size:#x} of a BAR of {self.size:#x} bytes")

    @property
    def mapped_size(self) -> int:
        """Its size in whole pages."""
        return -(-self.size // PAGE_SIZE) * PAGE_SIZE

    def has_registers(self, offset: int, size: int) -> bool:
        """Tell whether that part, if it is mapped, hides registers of the model; the model says that `areas` hold none."""
        registers = self.size if self.registers is None else self.registers
        return not self.memory and self.areas is None and size > 0 and offset < registers

    def maps(self, offset: int, size: int) -> bool:
        """Tell whether that part may be mapped, if any of it may."""
        areas = ((0, self.mapped_size),) if self.areas is None else self.areas
        return any(start <= offset and offset + size <= start + length for start, length in areas)


@dataclass(frozen=True, slots=True)
class Capability:
    """A capability as bytes.

    Attributes:
        id: PCI_CAP_ID_*.
        body: what follows the id and the next pointer.
        mask: which bits of `body` can be written; missing bytes cannot.
        at: where it lies; None for the next free place.
    """

    id: int
    body: bytes
    mask: bytes = b""
    at: int | None = None

    def encode(self) -> "Capability":
        """Return itself."""
        return self


class Encodes(Protocol):
    """Anything that is a capability."""

    def encode(self) -> Capability:
        """Encode it as bytes."""


@dataclass(frozen=True, slots=True)
class PowerManagement:
    """PM: D0 and D3hot.

    Attributes:
        no_soft_reset: D3hot keeps the state; without it, coming back to D0 resets the function.
        version: of the capability.
        flags: further bits of the capabilities register: PME support, DSI.
        at: see `Capability`.
    """

    no_soft_reset: bool = False
    version: int = 3
    flags: int = 0
    at: int | None = None

    def encode(self) -> Capability:
        """Encode PMC, PMCSR, and the bridge extensions and data, which are not there."""
        csr = r.PM_CTRL_NO_SOFT_RESET if self.no_soft_reset else 0
        body = (self.version | self.flags).to_bytes(2, "little") + csr.to_bytes(2, "little") + bytes(2)
        mask = bytes(2) + (r.PM_CTRL_STATE | r.PM_CTRL_PME_ENABLE).to_bytes(2, "little")
        return Capability(r.CAP_ID_PM, body, mask, self.at)


@dataclass(frozen=True, slots=True)
class Msi:
    """MSI.

    Attributes:
        vectors: how many, a power of two up to 32.
        is_64bit: its address has 64 bits.
        maskable: vectors can be masked one by one.
        at: see `Capability`.
    """

    vectors: int
    is_64bit: bool = True
    maskable: bool = False
    at: int | None = None

    def __post_init__(self) -> None:
        if self.vectors not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"{self.vectors} MSI vectors")

    def encode(self) -> Capability:
        """Encode flags, address, data and, if maskable, mask and pending bits."""
        flags = (self.vectors.bit_length() - 1) << 1
        flags |= (r.MSI_FLAGS_64BIT if self.is_64bit else 0) | (r.MSI_FLAGS_MASKBIT if self.maskable else 0)
        address = 8 if self.is_64bit else 4
        body = flags.to_bytes(2, "little") + bytes(address + 2)
        mask = (r.MSI_FLAGS_ENABLE | r.MSI_FLAGS_QSIZE).to_bytes(2, "little")
        mask += b"\xfc" + b"\xff" * (address - 1) + b"\xff\xff"
        if self.maskable:
            body += bytes(10)
            mask += bytes(2) + ((1 << self.vectors) - 1).to_bytes(4, "little")
        return Capability(r.CAP_ID_MSI, body, mask, self.at)


@dataclass(frozen=True, slots=True)
class MsiX:
    """MSI-X.

    Attributes:
        vectors: how many, up to 2048.
        table_bar, table_offset: where the table is.
        pba_bar, pba_offset: where the pending bits are.
        at: see `Capability`.
    """

    vectors: int
    table_bar: int = 0
    table_offset: int = 0
    pba_bar: int = 0
    pba_offset: int = 0
    at: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.vectors <= r.MSIX_FLAGS_QSIZE + 1:
            raise ValueError(f"{self.vectors} MSI-X vectors")
        if self.table_offset % 8 or self.pba_offset % 8:
            raise ValueError("the MSI-X table and pending bits lie at multiples of 8")

    @property
    def table_size(self) -> int:
        """The size of the table, in bytes."""
        return self.vectors * r.MSIX_ENTRY_SIZE

    @property
    def pba_size(self) -> int:
        """The size of the pending bits, in bytes."""
        return -(-self.vectors // 64) * 8

    def encode(self) -> Capability:
        """Encode flags, table and pending bits."""
        body = (self.vectors - 1).to_bytes(2, "little")
        body += (self.table_offset | self.table_bar).to_bytes(4, "little")
        body += (self.pba_offset | self.pba_bar).to_bytes(4, "little")
        mask = (r.MSIX_FLAGS_ENABLE | r.MSIX_FLAGS_MASKALL).to_bytes(2, "little")
        return Capability(r.CAP_ID_MSIX, body, mask, self.at)


@dataclass(frozen=True, slots=True)
class Express:
    """PCI Express: makes the config space 4096 bytes long.

    Attributes:
        flr: it has function level reset.
        version: 1 or 2.
        type: PCI_EXP_TYPE_*: an endpoint, or one that is integrated in the root complex.
        devcap: the device capabilities, without FLR.
        linkcap, linkstatus: of the link.
        devcap2: the device capabilities 2.
        at: see `Capability`.
    """

    flr: bool = False
    version: int = 2
    type: int = r.EXP_TYPE_ENDPOINT
    devcap: int = 0x8020
    linkcap: int = 0x411
    linkstatus: int = 0x11
    devcap2: int = 0
    at: int | None = None

    def encode(self) -> Capability:
        """Encode 20 bytes, or 60 of version 2."""
        devcap = self.devcap | (r.EXP_DEVCAP_FLR if self.flr else 0)
        body = bytearray(18 if self.version == 1 else 58)
        mask = bytearray(len(body))
        body[0:2] = (self.version | self.type << r.EXP_TYPE_SHIFT).to_bytes(2, "little")
        body[2:6] = devcap.to_bytes(4, "little")
        mask[6:8] = (0x7FFF).to_bytes(2, "little")
        body[10:14] = self.linkcap.to_bytes(4, "little")
        mask[14:16] = (0x0FFF).to_bytes(2, "little")
        body[16:18] = self.linkstatus.to_bytes(2, "little")
        if self.version > 1:
            body[34:38] = self.devcap2.to_bytes(4, "little")
            mask[38:40] = (0x7FFF).to_bytes(2, "little")
        return Capability(r.CAP_ID_EXP, bytes(body), bytes(mask), self.at)


@dataclass(frozen=True, slots=True)
class ExtendedCapability:
    """A capability of the extended config space.

    Attributes:
        id: PCI_EXT_CAP_ID_*.
        version: 1 to 15.
        body: what follows the header.
        mask: which bits of `body` can be written.
        at: where it lies; None for the next free place. The first one lies at 0x100.
    """

    id: int
    version: int
    body: bytes
    mask: bytes = b""
    at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A PCI function.

    Attributes:
        vendor, device, revision, subsystem: its identity; `subsystem` is (vendor, device).
        class_code: 24 bits.
        interrupt_pin: 0 for none, 1 for INTA.
        interrupt_line: what firmware has left in the register of that name.
        bars: by index.
        rom: the contents of the expansion ROM, or None.
        rom_size: of its BAR; at least the contents.
        rom_address: where firmware has put it.
        capabilities: in the order of the chain.
        extended: in the order of the chain; only with Express.
    """

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem: tuple[int, int] = (0, 0)
    interrupt_pin: int = 0
    interrupt_line: int = 11
    bars: Mapping[int, Bar] = field(default_factory=dict)
    rom: bytes | None = None
    rom_size: int = 0
    rom_address: int | None = None
    capabilities: tuple[Encodes, ...] = ()
    extended: tuple[ExtendedCapability, ...] = ()

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("vendor", self.vendor, 0xFFFF),
            ("device", self.device, 0xFFFF),
            ("class_code", self.class_code, 0xFFFFFF),
            ("revision", self.revision, 0xFF),
            ("interrupt_pin", self.interrupt_pin, 4),
        ):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} is {value:#x}")
        for index, bar in self.bars.items():
            last = index + 1 if bar.kind == "mem64" else index
            if not 0 <= index <= last < r.BAR_COUNT or (last > index and last in self.bars):
                raise ValueError(f"BAR {index} ({bar.kind}) does not fit")
        if self.extended and not self.express:
            raise ValueError("extended capabilities of a function without PCI Express")
        if (msix := self.msix) is not None:
            for what, index, end in (
                ("table", msix.table_bar, msix.table_offset + msix.table_size),
                ("pending bits", msix.pba_bar, msix.pba_offset + msix.pba_size),
            ):
                if index not in self.bars or end > self.bars[index].size:
                    raise ValueError(f"the MSI-X {what} are not in BAR {index}")

    @property
    def express(self) -> Express | None:
        """The PCI Express capability."""
        return next((cap for cap in self.capabilities if isinstance(cap, Express)), None)

    @property
    def power(self) -> PowerManagement | None:
        """The power management capability."""
        return next((cap for cap in self.capabilities if isinstance(cap, PowerManagement)), None)

    @property
    def msi(self) -> Msi | None:
        """The MSI capability."""
        return next((cap for cap in self.capabilities if isinstance(cap, Msi)), None)

    @property
    def msix(self) -> MsiX | None:
        """The MSI-X capability."""
        return next((cap for cap in self.capabilities if isinstance(cap, MsiX)), None)

    @property
    def config_size(self) -> int:
        """256, or 4096 with PCI Express."""
        return r.EXTENDED_SIZE if self.express else r.CONFIG_SIZE

    @property
    def can_reset(self) -> bool:
        """True if Linux can reset the function by itself: FLR, or the soft reset between D3hot and D0.

        Kernel: pcie_reset_flr(), pci_af_flr(), pci_pm_reset().
        """
        if self.express is not None and self.express.flr:
            return True
        if self.power is not None and not self.power.no_soft_reset:
            return True
        need = r.AF_CAP_TP | r.AF_CAP_FLR
        return any(
            cap.id == r.CAP_ID_AF and cap.body[r.AF_CAP - 2] & need == need
            for cap in (encodes.encode() for encodes in self.capabilities)
        )
