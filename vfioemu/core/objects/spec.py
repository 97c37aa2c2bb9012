# SPDX-License-Identifier: MIT
"""The parts of a machine, as plain data: what a machine description says and what tests build by hand."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, cast, get_args

from vfioemu.core.base.limits import DMA_ENTRY_LIMIT
from vfioemu.core.base.profile import DEFAULT, PROFILES, Quirks
from vfioemu.core.memory.accounting import Memlock
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.memory.manual_clear import VARIANTS

GROUP_MAX: Final = (1 << 31) - 1
"""The largest number of a group, an int of the kernel; VFIO_DEVICE_GET_PCI_HOT_RESET_INFO has 32 bits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """An IOMMU group.

    Attributes:
        number: N of /dev/vfio/N.
        iommu: the hardware behind it, or None for devices that only go through pins and dma_rw (mdev).
        viable: no other driver holds a device of it.
    """

    number: int
    iommu: IommuSpec | None = None
    viable: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.number <= GROUP_MAX:
            raise ValueError(f"group number {self.number} is outside 0..{GROUP_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """A device.

    Attributes:
        symbol: how the machine's owner calls it.
        name: what GET_DEVICE_FD wants: a UUID (mdev) or a PCI address.
        group: the number of its group.
        model: the name of its device model.
        options: for the model.
    """

    symbol: str
    name: str
    group: int
    model: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """The settings of one container; None takes the machine's.

    Attributes:
        profile: the kernel release whose answers it gives.
        quirks: see `Quirks`.
        manual_clear: see `MachineSpec`.
    """

    profile: str | None = None
    quirks: Quirks | None = None
    manual_clear: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ContainerOptions":
        """Read ``profile=RELEASE,manual-clear=fixed``; empty text is no option.

        Raises:
            ValueError: no such option, no such value, or an option that is given twice.
        """
        given: dict[str, str] = {}
        for word in text.split(",") if text else ():
            key, equals, value = word.partition("=")
            values = _CONTAINER_OPTIONS.get(key)
            if values is None:
                raise ValueError(
                    f"unknown container option {key!r}; there are {', '.join(_CONTAINER_OPTIONS)}"
                )
            if not equals:
                raise ValueError(f"container option {key!r} lacks a value, one of {', '.join(values)}")
            if key in given:
                raise ValueError(f"container option {key!r} is given twice")
            if value not in values:
                raise ValueError(f"container option {key}: {value!r} is none of {', '.join(values)}")
            given[key] = value
        return cls(
            profile=given.get("profile"),
            quirks=cast("Quirks | None", given.get("quirks")),
            manual_clear=given.get("manual-clear"),
        )


_CONTAINER_OPTIONS: Final[Mapping[str, Collection[str]]] = {
    "profile": PROFILES,
    "quirks": get_args(Quirks),
    "manual-clear": VARIANTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A machine.

    Attributes:
        groups: its groups; numbers differ.
        devices: its devices; symbols differ, groups exist.
        profile: the kernel release whose answers are given.
        quirks: see `Quirks`.
        memlock: see `Memlock`.
        dma_entry_limit: the module parameter; read when SET_IOMMU succeeds.
        manual_clear: whether the dirty log can be cleared by hand, and as which proposal had it.
    """

    groups: tuple[GroupSpec, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    profile: str = DEFAULT.name
    quirks: Quirks = "recorded"
    memlock: Memlock = "off"
    dma_entry_limit: int = DMA_ENTRY_LIMIT
    manual_clear: str = "off"

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} is none of {', '.join(PROFILES)}")
        if self.quirks not in ("recorded", "clean"):
            raise ValueError(f"quirks {self.quirks!r} is neither 'recorded' nor 'clean'")
        if self.memlock not in ("off", "client") and not (
            isinstance(self.memlock, int) and self.memlock >= 0
        ):
            raise ValueError(f"memlock {self.memlock!r} is neither 'off', 'client' nor a number of bytes")
        if self.manual_clear not in VARIANTS:
            raise ValueError(f"manual_clear {self.manual_clear!r} is none of {', '.join(VARIANTS)}")
        if not 0 <= self.dma_entry_limit < 1 << 32:
            raise ValueError(f"dma_entry_limit {self.dma_entry_limit} does not fit 32 bits")
        numbers = {group.number for group in self.groups}
        if len(numbers) != len(self.groups):
            raise ValueError("two groups have the same number")
        if len({device.symbol for device in self.devices}) != len(self.devices):
            raise ValueError("two devices have the same symbol")
        for device in self.devices:
            if device.group not in numbers:
                raise ValueError(f"device {device.symbol} is in group {device.group}, which does not exist")
