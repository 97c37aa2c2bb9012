# SPDX-License-Identifier: MIT
"""The options of a dma-engine in a machine file and on command lines."""

import errno
from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from vfioemu.abi.dma_engine import PinMode
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.devices.options import U64, guess
from vfioemu.devices.pci.vfio_pci.options import PciOptions
from vfioemu.uapi import constants as c

MAX_BIG_BAR: Final = 64 << 20
_MIGRATION: Final = {
    "stop-copy": c.VFIO_MIGRATION_STOP_COPY,
    "p2p": c.VFIO_MIGRATION_P2P,
    "pre-copy": c.VFIO_MIGRATION_PRE_COPY,
}
_PINS: Final = {"none": PinMode.NONE, "keep": PinMode.KEEP, "window": PinMode.WINDOW}
_ERRNOS: Final = {name: number for name, number in vars(errno).items() if name.startswith("E")}

Part: TypeAlias = Literal["stop-copy", "p2p", "pre-copy"]
Pins: TypeAlias = Literal["none", "keep", "window"]


class Options(PciOptions, frozen=True):
    """The options of one device; the properties below say what follows from several of them."""

    type: Annotated[
        Literal[1, 2, 3],
        Meta(
            description="1: an mdev; 2: behind an IOMMU, does not pin; 3: behind an IOMMU, pins what it uses"
        ),
    ] = 1
    id: Annotated[
        U64 | UnsetType, Meta(description="number in the stamps; by default made from the name")
    ] = UNSET
    migration: Annotated[
        tuple[Part, ...],
        Meta(description="by which protocol it migrates, or what it can in v2: a list of parts"),
    ] = ("stop-copy", "p2p", "pre-copy")
    p2p: Annotated[bool, Meta(description="whether it knows the P2P states")] = True
    precopy: Annotated[bool, Meta(description="whether it knows the PRE_COPY states")] = True
    logging: Annotated[bool, Meta(description="whether it logs its DMA")] = True
    pins: Annotated[
        Pins | UnsetType,
        Meta(description="initial value of register PIN_MODE; by default keep for type 3, else none"),
    ] = UNSET
    pin_from: Annotated[
        Literal["run", "pre-copy"] | UnsetType,
        Meta(description="type 3 pins when it begins to run, or from its first pre-copy on (the default)"),
    ] = UNSET
    config: Annotated[
        bool,
        Meta(
            description="whether config space travels with its state; if not, who migrates it restores that"
        ),
    ] = False
    bus_master: Annotated[
        bool | UnsetType,
        Meta(
            description="whether DMA needs the bus master bit of COMMAND; by default if its name is a PCI address"
        ),
    ] = UNSET
    big_bar: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_BIG_BAR,
            description="bytes of BAR 4, memory behind a 64-bit prefetchable BAR: a power of two from 4096 on, or 0 for none",
        ),
    ] = 0
    journal: Annotated[
        bool,
        Meta(description="whether it notes what it wrote last to each page, for the control command inspect"),
    ] = False
    hide: Annotated[U64, Meta(description="a liar: every n-th write leaves no dirty mark; 0 for none")] = 0
    hide_page: Annotated[
        U64 | UnsetType, Meta(description="a liar: writes to the page at this IOVA leave no dirty mark")
    ] = UNSET
    fail_logging_start: Annotated[
        str | UnsetType, Meta(description="the errno with which DMA_LOGGING_START fails, as in ENOMEM")
    ] = UNSET

    def __post_init__(self) -> None:
        if self.pin_mode and self.type == 2:
            raise ValueError("pins: a device of type 2 does not pin")
        if self.pin_from is not UNSET and self.type != 3:
            raise ValueError(f"pin-from: only for type 3, not type {self.type}")
        if self.hide_page is not UNSET and self.hide_page % PAGE_SIZE:
            raise ValueError(
                f"hide-page: the address of a page (a multiple of {PAGE_SIZE}), not {self.hide_page:#x}"
            )
        if self.big_bar and (self.big_bar < PAGE_SIZE or self.big_bar & (self.big_bar - 1)):
            raise ValueError(
                f"big-bar: 0 or a power of two from {PAGE_SIZE} to {MAX_BIG_BAR}, not {self.big_bar}"
            )
        name = self.fail_logging_start
        if name is not UNSET and name not in _ERRNOS:
            why = f"fail-logging-start: the name of an errno, not {name!r}"
            raise ValueError(why + guess(name, list(_ERRNOS)))
        if self.migration and "stop-copy" not in self.migration:
            raise ValueError(f"migration: without stop-copy there is none, not {list(self.migration)}")

    @property
    def migration_flags(self) -> int:
        """VFIO_MIGRATION_*; 0 for a device that does not migrate."""
        flags = 0
        for part in self.migration:
            flags |= _MIGRATION[part]
        if not self.p2p:
            flags &= ~c.VFIO_MIGRATION_P2P
        return flags if self.precopy else flags & ~c.VFIO_MIGRATION_PRE_COPY

    @property
    def pin_mode(self) -> PinMode:
        """The initial value of PIN_MODE."""
        if self.pins is UNSET:
            return PinMode.KEEP if self.type == 3 else PinMode.NONE
        return _PINS[self.pins]

    @property
    def pins_late(self) -> bool:
        """It begins to pin with its first PRE_COPY."""
        return self.type == 3 and self.pin_from != "run"

    @property
    def pin_modes(self) -> frozenset[PinMode]:
        """The values that PIN_MODE may have: type 2 cannot pin, and type 3 cannot stop to, since its group counts by its pins."""
        if self.type == 1:
            return frozenset(PinMode)
        none = self.pin_mode == PinMode.NONE
        return frozenset({PinMode.NONE} if none else {PinMode.KEEP, PinMode.WINDOW})

    @property
    def logging_errno(self) -> int:
        """The errno of DMA_LOGGING_START; 0 for a device that logs."""
        return 0 if self.fail_logging_start is UNSET else _ERRNOS[self.fail_logging_start]

    @property
    def lie(self) -> Callable[[int, int], bool] | None:
        """The test for writes (sequence number, page) that leave no mark; None for an honest device."""
        if not self.hide and self.hide_page is UNSET:
            return None
        hide, hide_page = self.hide, self.hide_page
        return lambda seq, page: page == hide_page or (hide != 0 and seq % hide == 0)
