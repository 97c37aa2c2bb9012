# SPDX-License-Identifier: MIT
"""What comes before QEMU's command line: `vfioemu run`, as a user would type it."""

import sys
from collections.abc import Sequence

from tests.system.interop.machine import Device
from vfioemu.testing.daemon import DaemonProcess

VFIOEMU = (sys.executable, "-P", "-m", "vfioemu.cli.main")


def connected(daemon: DaemonProcess) -> list[str]:
    """Use a daemon that runs."""
    return [*VFIOEMU, "run", "--connect", str(daemon.directory), "--"]


def private(devices: Sequence[Device]) -> list[str]:
    """Have a daemon of its own, with these devices."""
    asked = [
        "--device=" + ",".join([device.model, *(f"{k}={v}" for k, v in device.options.items())])
        for device in devices
    ]
    return [*VFIOEMU, "run", *asked, "--"]


def properties(devices: Sequence[Device]) -> list[str]:
    """QEMU's -device for each: `vfioemu run` puts the devices' paths in."""
    return [device.properties(f"{{sysfsdev{number or ''}}}") for number, device in enumerate(devices)]
