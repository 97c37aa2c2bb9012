# SPDX-License-Identifier: MIT
"""`oracle`: the device that the golden traces were recorded with."""

from vfioemu.devices.oracle.device import Oracle

__all__ = ["Oracle"]
