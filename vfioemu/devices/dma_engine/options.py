# SPDX-License-Identifier: MIT
"""What a machine file can say of a dma-engine."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeVar

from vfioemu.uapi import constants as c
from vfioemu.uapi.dma_engine import PinMode

T = TypeVar("T")

MAX_BIG_BAR: Final = 64 << 20
_MIGRATION: Final = {
    "stop-copy": c.VFIO_MIGRATION_STOP_COPY,
    "p2p": c.VFIO_MIGRATION_P2P,
    "pre-copy": c.VFIO_MIGRATION_PRE_COPY,
}
_PINS: Final = {"none": PinMode.NONE, "keep": PinMode.KEEP, "window": PinMode.WINDOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one device.

    Attributes:
        type: 1, 2 or 3.
        id: of its stamps; None derives it from the device's name.
        migration: VFIO_MIGRATION_* flags.
        logging: it logs its DMA.
        pins: the default of PIN_MODE.
        pins_late: it begins to pin with its first PRE_COPY.
        hide: every so many writes one leaves no mark; 0 is none.
        hide_page: writes to this page (an IOVA) leave no mark.
        journal: it notes what it has written last to each page.
        big_bar: the size of BAR 4; 0 is none.
        fail_logging: the errno of DMA_LOGGING_START; 0 for a device that logs.
        bus_master: DMA needs COMMAND's bus master bit; None is as the device's name says.
        config: config space is part of its migration state.
    """

    HELP: ClassVar[Mapping[str, str]] = {
        "type": "1 (emulated), 2 (behind an IOMMU, does not pin), 3 (behind an IOMMU, pins what it uses); default 1",
        "id": "number in the stamps (default: made from the name)",
        "migration": "v2 (default), v1, none; or what it can in v2: a list of stop-copy, p2p, pre-copy (default: all)",
        "logging": "whether it logs its DMA (default true)",
        "pins": "default of register PIN_MODE: none, keep, window (default: keep for type 3, else none)",
        "pin-from": "type 3 pins from its first 'pre-copy' on (default), or when it begins to 'run'",
        "hide": "a liar: every n-th write leaves no dirty mark",
        "hide-page": "a liar: writes to the page at this IOVA leave no dirty mark",
        "p2p": "whether it knows the P2P states (default true)",
        "precopy": "whether it knows the PRE_COPY states (default true)",
        "journal": "whether it notes what it wrote last to each page, for the control command inspect (default false)",
        "big-bar": "size of BAR 4, memory behind a 64-bit prefetchable BAR: a power of two up to 64 MiB (default: none)",
        "fail-logging-start": "the errno with which DMA_LOGGING_START fails, as in ENOMEM (default: none)",
        "config": "whether config space travels with its state (default false: who migrates it restores that)",
        "bus-master": "whether DMA needs the bus master bit of COMMAND (default: if the device's name is a PCI address)",
    }

    type: int
    id: int | None
    migration: int
    logging: bool
    pins: PinMode
    pins_late: bool
    hide: int
    hide_page: int | None
    journal: bool
    big_bar: int
    fail_logging: int
    bus_master: bool | None
    config: bool

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Read the options; ValueError says what is wrong with them."""
        type_ = _number(options, "type", 1, 3)
        if not type_:
            raise ValueError("type: 1, 2 or 3, not 0")
        default_pins = "keep" if type_ == 3 else "none"
        pins = _choice(options, "pins", default_pins, _PINS)
        if pins and type_ == 2:
            raise ValueError("pins: a device of type 2 does not pin")
        pin_from = _choice(options, "pin-from", "pre-copy", {"run": False, "pre-copy": True})
        if "pin-from" in options and type_ != 3:
            raise ValueError("pin-from: only for type 3")
        return cls(
            type=type_,
            id=_number(options, "id", 0, (1 << 64) - 1) if "id" in options else None,
            migration=_migration(options),
            logging=_bool(options, "logging", default=True),
            pins=pins,
            pins_late=pin_from and type_ == 3,
            hide=_number(options, "hide", 0, (1 << 64) - 1),
            hide_page=_page(options) if "hide-page" in options else None,
            journal=_bool(options, "journal", default=False),
            big_bar=_bar_size(options),
            fail_logging=_errno(options, "fail-logging-start"),
            bus_master=_bool(options, "bus-master", default=False) if "bus-master" in options else None,
            config=_bool(options, "config", default=False),
        )

    @property
    def pin_modes(self) -> frozenset[PinMode]:
        """What PIN_MODE may be: type 2 cannot pin, and type 3 cannot stop to, since its group counts by its pins."""
        if self.type == 1:
            return frozenset(PinMode)
        return frozenset({PinMode.NONE} if self.pins == PinMode.NONE else {PinMode.KEEP, PinMode.WINDOW})

    @property
    def lie(self) -> Callable[[int, int], bool] | None:
        """Which writes (sequence number, page) leave no mark; None for an honest device."""
        if not self.hide and self.hide_page is None:
            return None
        hide, hide_page = self.hide, self.hide_page
        return lambda seq, page: page == hide_page or (hide != 0 and seq % hide == 0)


def _number(options: Mapping[str, object], name: str, default: int, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{name}: a number up to {most}, not {value!r}")
    return value


def _page(options: Mapping[str, object]) -> int:
    page = _number(options, "hide-page", 0, (1 << 64) - 1)
    if page % 4096:
        raise ValueError(f"hide-page: the address of a page, not {page:#x}")
    return page


def _choice(options: Mapping[str, object], name: str, default: str, choices: Mapping[str, T]) -> T:
    value = options.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def _bool(options: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: true or false, not {value!r}")
    return value


def _bar_size(options: Mapping[str, object]) -> int:
    size = _number(options, "big-bar", 0, MAX_BIG_BAR)
    if size and (size < 4096 or size & (size - 1)):
        raise ValueError(f"big-bar: a power of two from 4096 to {MAX_BIG_BAR}, not {size}")
    return size


def _errno(options: Mapping[str, object], name: str) -> int:
    value = options.get(name)
    if value is None:
        return 0
    number = getattr(errno, value, 0) if isinstance(value, str) and value.startswith("E") else 0
    if not isinstance(number, int) or not number:
        raise ValueError(f"{name}: the name of an errno, not {value!r}")
    return number


def _migration(options: Mapping[str, object]) -> int:
    flags = _migration_list(options.get("migration", list(_MIGRATION)))
    for name, flag in (("p2p", c.VFIO_MIGRATION_P2P), ("precopy", c.VFIO_MIGRATION_PRE_COPY)):
        if not _bool(options, name, default=True):
            flags &= ~flag
    return flags


def _migration_list(value: object) -> int:
    if not isinstance(value, list) or not all(isinstance(item, str) and item in _MIGRATION for item in value):
        raise ValueError(f"migration: a list of {', '.join(_MIGRATION)}, not {value!r}")
    flags = 0
    for item in value:
        flags |= _MIGRATION[item]
    if flags and not flags & c.VFIO_MIGRATION_STOP_COPY:
        raise ValueError("migration: without stop-copy there is none")
    return flags
