# SPDX-License-Identifier: MIT
"""A device model of docs/howto/device.md: BAR 0 is a counter; each write to it adds `step`, whatever is written."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from vfioemu.core.model import READ_WRITE, DeviceModel, Region
from vfioemu.devices.options import Options, OptionTable


class TickOptions(Options, frozen=True):
    """What can be said of a tick."""

    step: Annotated[int, Meta(ge=1, le=255, description="how much one write adds")] = 1


class Tick(DeviceModel):
    """A counter that goes up with each write."""

    OPTIONS = OptionTable(TickOptions)

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options)
        self.step = TickOptions.parse(options).step
        self.count = 0

    def regions(self) -> Sequence[Region]:
        """BAR 0, 8 bytes."""
        return (Region(8, READ_WRITE),)

    def open_device(self) -> None:
        """Begin at 0, as after a reset."""
        self.reset()

    def reset(self) -> None:
        """Begin at 0."""
        self.count = 0

    def read_region(self, index: int, offset: int, size: int) -> bytes:
        """Read the counter."""
        return self.count.to_bytes(8, "little")[offset : offset + size]

    def write_region(self, index: int, offset: int, data: bytes) -> None:
        """Count."""
        self.count = (self.count + self.step) % (1 << 64)
