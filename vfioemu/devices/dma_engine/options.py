# SPDX-License-Identifier: MIT
"""What a machine file can say of a dma-engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeVar

from vfioemu.uapi import constants as c
from vfioemu.uapi.dma_engine import PinMode

T = TypeVar("T")

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
    """

    HELP: ClassVar[Mapping[str, str]] = {
        "type": "1 (emulated), 2 (behind an IOMMU, does not pin), 3 (behind an IOMMU, pins what it uses); default 1",
        "id": "number in the stamps (default: made from the name)",
        "migration": "what it can: any of stop-copy, p2p, pre-copy, with stop-copy among them, or none (default: all)",
        "logging": "whether it logs its DMA (default true)",
        "pins": "default of register PIN_MODE: none, keep, window (default: keep for type 3, else none)",
        "pin-from": "type 3 pins from its first 'pre-copy' on (default), or when it begins to 'run'",
        "hide": "a liar: every n-th write leaves no dirty mark",
        "hide-page": "a liar: writes to the page at this IOVA leave no dirty mark",
    }

    type: int
    id: int | None
    migration: int
    logging: bool
    pins: PinMode
    pins_late: bool
    hide: int
    hide_page: int | None

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
        logging = options.get("logging", True)
        if not isinstance(logging, bool):
            raise ValueError(f"logging: true or false, not {logging!r}")
        return cls(
            type=type_,
            id=_number(options, "id", 0, (1 << 64) - 1) if "id" in options else None,
            migration=_migration(options.get("migration", list(_MIGRATION))),
            logging=logging,
            pins=pins,
            pins_late=pin_from and type_ == 3,
            hide=_number(options, "hide", 0, (1 << 64) - 1),
            hide_page=_page(options) if "hide-page" in options else None,
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


def _migration(value: object) -> int:
    if not isinstance(value, list) or not all(isinstance(item, str) and item in _MIGRATION for item in value):
        raise ValueError(f"migration: a list of {', '.join(_MIGRATION)}, not {value!r}")
    flags = 0
    for item in value:
        flags |= _MIGRATION[item]
    if flags and not flags & c.VFIO_MIGRATION_STOP_COPY:
        raise ValueError("migration: without stop-copy there is none")
    return flags
