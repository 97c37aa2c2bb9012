# SPDX-License-Identifier: MIT
"""All pairs and triples of migration states, with every arc and every effect failing in turn, against a model.

After any failure GET tells the true state: the one from which the next SET starts, whose data fd works, and in which the
device may or may not do DMA.
"""

import errno
import itertools
import struct

import pytest

from tests.core import migration_model as model
from tests.core.migration_model import ERROR, RUNNING, SAVING
from vfioemu.core.base.effects import read_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.streams import ResumingStream, SavingStream, StateLost
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

GET = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
FLAGS = [1, 3, 5, 7]
TARGETS = (*range(9), 0xFF, 0xFFFFFFFF)
FAILURES = [("EIO", False), ("ENOSPC", True)]


class Endless(SavingStream):
    def peek(self, size):
        return b"x" * size

    def advance(self, size):
        pass


class Hole(ResumingStream):
    def append(self, data):
        pass


class Device(DeviceModel):
    """Fails the arcs that it is told to fail; each arc has two effects."""

    def __init__(self, flags):
        super().__init__({})
        self.migration_flags = flags
        self.failures = {}
        self.tried = []
        self.address = 0

    def arc(self, current, target):
        self.tried.append((current, target))
        yield from read_user(self.address, 4)
        if (current, target) in self.failures:
            name, lost = self.failures[current, target]
            raise (StateLost if lost else IoctlError)(getattr(errno, name), "told to fail")
        yield from read_user(self.address, 4)
        opened = model.opens(current, target)
        return {None: lambda: None, model.SAVING_FD: Endless, model.RESUMING_FD: Hole}[opened]()


class Rig:
    """A device on a bench, whose fd is what its answers are compared with."""

    def __init__(self, flags):
        self.flags = flags
        self.device = Device(flags)
        self.bench = Bench(self.device)
        self.process = self.bench.process
        self.device.address = self.process.memory.allocate(4096)
        self.process.memory.write(self.device.address, b"ready")
        self.fds = []  # all that were ever given
        self.fd = None  # that of the session that there is

    def reset(self):
        assert self.bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
        for fd in self.fds:
            self.process.close(fd)
        self.fds.clear()
        self.fd = None
        self.device.failures = {}
        self.device.tried.clear()

    def get(self):
        result, payload = self.bench.feature(GET, b"\xaa" * 8)
        assert result.ret == 0
        state, data_fd = struct.unpack("<Ii", payload)
        assert data_fd == -1
        return state

    def set(self, target):
        """SET_STATE; returns what a model calls an outcome."""
        self.device.tried.clear()
        before = self.get()
        result, payload = self.bench.feature(SET, struct.pack("<Ii", target, 77))
        told, data_fd = struct.unpack("<Ii", payload)
        assert told == target  # what was asked for, whatever came of it
        state = self.get()
        kind = None
        if data_fd >= 0:
            self.fds.append(data_fd)
            self.fd = data_fd
            kind = (
                model.RESUMING_FD
                if self.process.read(data_fd, self.bench.arg, 1).err == "EBADF"
                else model.SAVING_FD
            )
        elif state != before and not (before in SAVING and state in SAVING):
            self.fd = None
        return model.Outcome(result.err, state, tuple(self.device.tried), kind)

    def check_session(self, state):
        """The fd of the session works as it should in this state, and no other does."""
        for fd in self.fds:
            read = self.process.read(fd, self.bench.arg, 5)
            write = self.process.write(fd, self.bench.arg, 5)
            if fd != self.fd:
                assert "ENODEV" in (read.err, write.err)
            elif state in SAVING:
                assert (read.ret, write.err) == (5, "EBADF")
            else:
                assert (write.ret, read.err) == (5, "EBADF")
        assert (self.fd is not None) == (state in SAVING or state == model.RESUMING)
        assert self.bench.device.migration.runs == (
            state in (RUNNING, model.RUNNING_P2P, model.PRE_COPY, model.PRE_COPY_P2P)
        )

    def bring(self, state):
        """RUNNING, then straight to `state`."""
        self.reset()
        if state == ERROR:
            arc = (RUNNING, (model.path(self.flags, RUNNING, model.STOP))[0])
            self.device.failures = {arc: ("EIO", True)}
            assert self.set(model.STOP).state == ERROR
            self.device.failures = {}
            return
        outcome = self.set(state)
        assert (outcome.error, outcome.state) == (None, state)

    def try_it(self, target, failures):
        """One SET with these failures, held against the model; returns the state afterwards."""
        current = self.get()
        self.device.failures = failures
        expected = model.set_state(self.flags, current, target, failures)

        assert self.set(target) == expected

        self.device.failures = {}
        self.check_session(expected.state)
        return expected.state


@pytest.fixture(params=FLAGS, ids=["S", "SP", "SC", "SPC"])
def rig(request):
    return Rig(request.param)


def arcs_of(flags, current, target):
    way = model.path(flags, current, target) or []
    return list(zip([current, *way], way, strict=False))


def states(flags):
    return [ERROR, *sorted(model.states(flags))]


def test_all_pairs_with_a_failure_in_each_arc(rig):
    for current, target in itertools.product(states(rig.flags), TARGETS):
        for failures in [{}] + [
            {arc: failure} for arc in arcs_of(rig.flags, current, target) for failure in FAILURES
        ]:
            rig.bring(current)
            rig.try_it(target, failures)


def test_all_triples_with_a_failure_in_each_arc(rig):
    """A failure in the first leg, and on from wherever that has led; or in the second."""
    has = sorted(model.states(rig.flags))
    for first, second, third in itertools.product(has, has, has):
        for failures in [{}] + [{arc: ("EIO", False)} for arc in arcs_of(rig.flags, first, second)]:
            rig.bring(first)
            reached = rig.try_it(second, failures)
            rig.try_it(third, {})
            for arc in arcs_of(rig.flags, reached, third) if not failures else ():
                rig.bring(first)
                rig.try_it(second, {})
                rig.try_it(third, {arc: ("ENOMEM", False)})


def test_a_fault_at_any_effect_of_any_pair(rig):
    """The copies of the ioctl, the giving of the fd, and what the device does in its arcs (two effects each)."""
    for current, target in itertools.product(sorted(model.states(rig.flags)), repeat=2):
        way = [current, *(model.path(rig.flags, current, target) or [])]
        for nth in itertools.count(1):
            rig.bring(current)
            rig.process.inject(nth, errno.EFAULT)
            result, _ = rig.bench.feature(SET, struct.pack("<Ii", target, 77))
            if rig.process.heal():  # there were fewer effects
                break
            made = max(0, nth - 3) // 2  # after the header and the request
            state = way[min(made, len(way) - 1)]
            assert (result.err, rig.get()) == ("EFAULT", state)
            assert rig.set(RUNNING)[:2] == (None, RUNNING)  # from there one can go on
        new_fd = len(way) > 1 and model.opens(*way[-2:]) is not None
        assert nth == 2 + 2 * (len(way) - 1) + 1 + new_fd + 1


def test_the_model_can_be_wrong(monkeypatch):
    """Negative control: a device that tells the state asked for instead of the one that it has is caught."""
    rig = Rig(7)
    honest = rig.get
    monkeypatch.setattr(rig, "get", lambda: model.STOP if honest() == model.RUNNING_P2P else honest())
    rig.bring(RUNNING)

    with pytest.raises(AssertionError):
        rig.try_it(model.STOP_COPY, {(model.RUNNING_P2P, model.STOP): ("EIO", False)})
