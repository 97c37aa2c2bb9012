# SPDX-License-Identifier: MIT
"""For tests: of this package, and of programs that use VFIO (docs/testing.md).

`machine` makes an emulated kernel in this very process, `device` describes what is in it, `strategies` has what
Hypothesis needs, and `pytest_plugin` the fixtures. Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfioemu.testing import strategies
    from vfioemu.testing.inmemory import DeviceWish, MemoryMachine, device, machine

__all__ = ["DeviceWish", "MemoryMachine", "device", "machine", "strategies"]


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return importlib.import_module("vfioemu.testing.strategies")
    if name in __all__:
        return getattr(importlib.import_module("vfioemu.testing.inmemory"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
