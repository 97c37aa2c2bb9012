# SPDX-License-Identifier: MIT
"""Commands to an oracle device, on the model and on the core at once."""

from vfioemu.testing.process import Result
from vfioemu.testing.world import Handle, World

PIN, UNPIN, RW, NOTIFY = 1, 2, 3, 4


def follow_command(world: World, handle: Handle, words: tuple[int, ...]) -> Result:
    """Give a command, and see that device and model do the same; AssertionError if not."""
    command, first, second, third, fourth = words[:5]
    if command == PIN:
        world.pin(handle, first, (second & 0xFFFFFFFF ^ 1 << 31) - (1 << 31), third & 0xFFFFFFFF)
    elif command == UNPIN:
        world.unpin(handle, first, second)
    elif command == RW and third:
        world.dma_write(handle, first, second, fourth & 0xFF)
    elif command == RW:
        world.dma_read(handle, first, second)
    elif command == NOTIFY:
        world.notifications(handle)
    else:
        world.command(handle, *words)
    return Result(0)
