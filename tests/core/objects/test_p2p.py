# SPDX-License-Identifier: MIT
"""What the core lets a device do in each migration state: DMA not in the P2P states, unless the model can tell it apart."""

import struct

import pytest

from vfioemu.core.model.device import DeviceModel
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(1, 8)
QUIET = {RUNNING_P2P, PRE_COPY_P2P}
STOPPED = {STOP, STOP_COPY, RESUMING}


class Stream:
    chunk = 1 << 20
    returns_flags = True

    def peek(self, size):
        return b""


class Worker(DeviceModel):
    """Counts how often it may do something."""

    migration_flags = c.VFIO_MIGRATION_STOP_COPY | c.VFIO_MIGRATION_P2P | c.VFIO_MIGRATION_PRE_COPY

    def __init__(self, *, tells):
        super().__init__({})
        self.tells_p2p = tells
        self.worked = 0

    def work(self, now):
        self.worked += 1
        return now + 1

    def arc(self, current, target):
        return Stream() if target in {STOP_COPY, RESUMING, PRE_COPY} | {PRE_COPY_P2P} - {current} else None


def steps():
    yield from ()
    return "done"


def go(bench, state):
    flags = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    assert bench.feature(flags, struct.pack("<Ii", state, -1))[0].ret == 0


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("state", range(1, 8))
def test_what_a_device_may_do_in_a_state(state, tells):
    bench = Bench(Worker(tells=tells))
    device, model = bench.device, bench.model
    go(bench, state)
    may_dma = state not in STOPPED and (tells or state not in QUIET)

    assert bench.run(device.work(5.0)) == (6.0 if may_dma else None)
    assert model.worked == may_dma
    assert bench.run(device.active(steps())) == ("done" if may_dma else None)
    assert bench.run(device.active(steps(), dma=False)) == (None if state in STOPPED else "done")


@pytest.mark.parametrize("tells", [False, True])
def test_a_device_is_woken_when_it_may_do_dma_again(tells):
    bench = Bench(Worker(tells=tells))
    woken = []
    bench.device.on_wake.append(lambda: woken.append(bench.device.migration_state))
    for state in (RUNNING_P2P, RUNNING, PRE_COPY, PRE_COPY_P2P, PRE_COPY, STOP_COPY, STOP, RUNNING):
        go(bench, state)
    if tells:
        assert woken == [RUNNING_P2P]  # on its way from STOP
    else:
        assert woken == [RUNNING, PRE_COPY, RUNNING]

    go(bench, STOP)
    woken.clear()
    bench.ioctl(c.VFIO_DEVICE_RESET)
    assert woken == [RUNNING]
