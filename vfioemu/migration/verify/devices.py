# SPDX-License-Identifier: MIT
"""Comparing devices."""

import hashlib
from collections.abc import Mapping, Sequence

from vfioemu.migration.guest import GuestDevice
from vfioemu.migration.messages import DeviceLedger
from vfioemu.migration.stream import corrupt


async def read_ledger(device: GuestDevice) -> DeviceLedger:
    """Read what a stopped device shows; OSError with the errno of the call that failed."""
    registers = await device.driver.registers()
    digest = hashlib.blake2b(repr(sorted(registers.items())).encode(), digest_size=16).hexdigest()
    return DeviceLedger(name=device.name, registers=registers, digest=digest)


def not_compared(ledgers: Sequence[DeviceLedger]) -> list[str]:
    """Name the devices of which the source's guest knows no register: two of them are never seen to differ."""
    return [ledger.name for ledger in ledgers if not ledger.registers]


def compare_ledgers(theirs: Sequence[DeviceLedger], ours: Mapping[str, DeviceLedger]) -> dict[str, str]:
    """Find, at the destination, devices whose registers are not what the source's were: name -> what differs."""
    different: dict[str, str] = {}
    seen = set()
    for ledger in theirs:
        mine = ours.get(ledger.name)
        if mine is None or ledger.name in seen:
            raise corrupt(f"a ledger of device {ledger.name!r}, which is unknown or was there before")
        seen.add(ledger.name)
        names = sorted(ledger.registers.keys() | mine.registers.keys())
        wrong = [
            f"{name} is {mine.registers.get(name, 'absent')}, was {ledger.registers.get(name, 'absent')}"
            for name in names
            if mine.registers.get(name) != ledger.registers.get(name)
        ]
        if wrong:
            different[ledger.name] = "; ".join(wrong)[:4000]
        elif mine.digest != ledger.digest:
            different[ledger.name] = "the digest of its region differs"
    missing = ours.keys() - seen
    if missing:
        raise corrupt(f"no ledger of device {min(missing)!r}")
    return different
