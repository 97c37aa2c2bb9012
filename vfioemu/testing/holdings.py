# SPDX-License-Identifier: MIT
"""What a machine holds on behalf of its clients, in a few numbers that are all 0 when nobody has anything open."""

from collections import Counter

from vfioemu.core.machine import Machine


def holdings(machine: Machine) -> dict[str, int]:
    """Count containers, open groups and devices, and all that the containers' gauges say."""
    totals: Counter[str] = Counter()
    for gauges in machine.gauges().values():
        totals["containers"] += 1
        totals.update({name: value for name, value in gauges.items() if name not in _PER_CONTAINER})
    totals["groups"] = sum(group.is_open for group in machine.groups.values())
    totals["opened_devices"] = sum(device.open_count > 0 for device in machine.devices.values())
    totals["held_pins"] = sum(device.npinned for device in machine.devices.values())
    return dict(totals)


_PER_CONTAINER = frozenset({"dma_avail", "groups", "open", "devices"})
"""Gauges of a container that say what it is rather than what it holds."""
