# SPDX-License-Identifier: MIT
"""Commands that were put off are done within the device's work; those that come meanwhile wait for it."""

import errno
from types import SimpleNamespace
from typing import Any

from vfioemu.abi.dma_engine import COMMAND_INTERRUPT, Command
from vfioemu.core.base.effects import Breathe
from vfioemu.core.model.streams import RUNNING, RUNNING_P2P
from vfioemu.devices.dma_engine.commands import Commands


class Host:
    def __init__(self):
        self.migration_state = RUNNING_P2P
        self.asked = []

    def active(self, steps, *, dma=True):
        self.asked.append(dma)
        return (yield from steps)


def run(steps):
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def test_command_that_comes_while_another_is_done_within_work_is_not_within_it():
    host, rung = Host(), []

    def write(count):
        yield Breathe()  # it waits for memory, and others are served
        return count

    def done():
        rung.append(1)
        yield from ()

    card: Any = SimpleNamespace(host=host, may_dma=True)
    idle: Any = SimpleNamespace(refuse_idle=lambda: None)
    engine: Any = SimpleNamespace(write=write, raise_vector=done)
    commands = Commands(card, idle, engine)
    interrupting = Command.WRITE | COMMAND_INTERRUPT
    assert run(commands.execute(interrupting, (3, 0, 0))) == -errno.EINPROGRESS
    host.migration_state = RUNNING

    working = commands.go_on()
    next(working)
    assert host.asked == []
    assert run(commands.execute(interrupting, (5, 0, 0))) == 5
    assert host.asked == [True, False]  # the write, and the interrupt
    assert run(working) == 3
    assert (host.asked, rung) == ([True, False], [1, 1])
