# SPDX-License-Identifier: MIT
"""`mtty`: a PCI serial port with one or two 16550A ports whose lines are looped back, as the kernel's sample driver."""

from vfioemu.devices.mtty.device import Mtty

__all__ = ["Mtty"]
