# SPDX-License-Identifier: MIT
"""Commands to an oracle device, on the model and on the core at once."""

from tests.fuzzing import model
from tests.fuzzing.calls import Call
from tests.fuzzing.model import oracle
from tests.fuzzing.model.oracle import Command
from tests.fuzzing.program import Transfer
from tests.fuzzing.world import Handle, World
from vfioemu.testing.process import Result


def follow_command(world: World, handle: Handle, words: tuple[int, ...]) -> Result:
    """Give a command, and see that device and model do the same; AssertionError if not."""
    command, first, second, third, fourth = words[:5]
    if command == Command.PIN:
        world.pin(handle, first, (second & 0xFFFFFFFF ^ 1 << 31) - (1 << 31), third & 0xFFFFFFFF)
    elif command == Command.UNPIN:
        world.unpin(handle, first, second)
    elif command == Command.RW and third:
        world.dma_write(handle, first, second, fourth & 0xFF)
    elif command == Command.RW:
        world.dma_read(handle, first, second)
    elif command == Command.NOTIFY:
        world.notifications(handle)
    else:
        result = world.command(handle, *words)
        _follow(handle.thing, words, result)
    return Result(0)


def _follow(device: object, words: tuple[int, ...], result: Result) -> None:
    """What a command changes that only the device knows."""
    if not isinstance(device, model.Device):
        raise TypeError("not a device")
    if words[0] == Command.LOG_DIRTY:
        assert (result.err is None) == (device.log is not None), f"log_dirty: {result}"
        if device.log is not None:
            device.log.mark(words[1], words[2])
    elif device.migration is not None and words[0] == Command.FAIL:
        device.migration.fail_at = words[1] & 0xFFFFFFFF
        device.migration.fail_errno = words[2] & 0xFFFFFFFF
    elif device.migration is not None and words[0] == Command.SIZES:
        device.migration.stop_size = words[1]


def follow_data(call: Call, session: oracle.Session, result: Result) -> None:
    """What a data fd has answered, against what the model knows of its session."""
    reads, writes = call.transfer is Transfer.READ, call.transfer is Transfer.WRITE
    if not reads and not writes:
        return
    if reads != session.saving:
        assert result.err == "EBADF", f"{call.name} of the other kind of session: {result}"
    elif session.ended:
        assert result.err == "ENODEV", f"{call.name} after the end of the session: {result}"
    elif result.err is None:
        data = call.client.process.memory.peek(call.address, result.ret)
        if reads:
            assert data == oracle.stream(session.position, result.ret), f"{call.name}: other bytes"
            session.position += result.ret
        else:
            session.write(data)
