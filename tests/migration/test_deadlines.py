# SPDX-License-Identifier: MIT
"""Calls to a daemon that does not answer: each ends in time, is not cut, and nothing overtakes it. In virtual time."""

import errno

import pytest
import trio
import trio.testing

from vfioemu.migration import deadlines
from vfioemu.migration.deadlines import HURRY, Calls, DaemonSilent, within

LIMIT = 5.0
DEVICE, OTHER = "device", "other"
"""Files; what they are does not matter."""


class Daemon:
    """Answers calls unless it is stopped, each after `seconds`; remembers which of them took effect, in order."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.done = []
        self._runs = trio.Event()
        self._runs.set()

    def stop(self):
        self._runs = trio.Event()

    def go_on(self):
        self._runs.set()

    async def call(self, name, answer=None):
        await trio.sleep(self.seconds)
        await self._runs.wait()
        self.done.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer or name


async def test_call_that_is_answered_returns_what_it_brought_or_raises(autojump_clock):
    calls, daemon = Calls(LIMIT), Daemon(1.0)
    assert await calls.make(DEVICE, "a call", daemon.call("a")) == "a"
    with pytest.raises(OSError, match="no such") as error:
        await calls.make(DEVICE, "a call", daemon.call("b", OSError(errno.ENOENT, "no such thing")))
    assert error.value.errno == errno.ENOENT


async def test_silent_daemon_is_left_in_time_and_the_call_and_the_limit_are_named(autojump_clock):
    calls, daemon = Calls(LIMIT), Daemon()
    daemon.stop()
    began = trio.current_time()
    with pytest.raises(DaemonSilent) as error:
        await calls.make(DEVICE, "MIG_DEVICE_STATE STOP", daemon.call("a"))
    assert trio.current_time() - began == pytest.approx(LIMIT)
    assert error.value.errno == errno.ETIMEDOUT
    assert str(error.value.strerror) == (
        "the daemon has not answered MIG_DEVICE_STATE STOP for 5.0 s (--call-timeout 5s)"
    )


async def test_nothing_overtakes_a_call_that_is_late(autojump_clock):
    """A device that has said that it runs must not be stopped by what was asked for before."""
    calls, daemon = Calls(LIMIT), Daemon()
    daemon.stop()
    with pytest.raises(DaemonSilent):
        await calls.make(DEVICE, "a call", daemon.call("stop"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.make, DEVICE, "a call", daemon.call("run"))
        await trio.sleep(1)
        assert daemon.done == []
        daemon.go_on()
    assert daemon.done == ["stop", "run"]


async def test_control_a_call_on_another_file_may_overtake_it(autojump_clock):
    calls, slow, fast = Calls(LIMIT), Daemon(), Daemon()
    slow.stop()
    with pytest.raises(DaemonSilent):
        await calls.make(DEVICE, "a call", slow.call("stop"))
    assert await calls.make(OTHER, "a call", fast.call("run")) == "run"


async def test_daemon_that_answers_nothing_is_asked_no_longer_than_twice_the_limit(autojump_clock):
    calls, daemon = Calls(LIMIT), Daemon()
    daemon.stop()
    began = trio.current_time()
    for name in range(20):
        with pytest.raises(DaemonSilent):
            await calls.make(name, "a call", daemon.call(name))
    assert trio.current_time() - began == pytest.approx(2 * LIMIT)
    daemon.go_on()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(daemon.done) == [0, 1], "calls that were never made are not made later"
    assert await calls.make(2, "a call", daemon.call("again")) == "again"


async def test_one_device_that_hangs_is_asked_no_longer_than_twice_the_limit(autojump_clock):
    calls, stuck, well = Calls(LIMIT), Daemon(), Daemon()
    stuck.stop()
    began = trio.current_time()
    for _ in range(5):
        with pytest.raises(DaemonSilent):
            await calls.make(DEVICE, "a call", stuck.call("a"))
        await calls.make(OTHER, "a call", well.call("b"))
    assert trio.current_time() - began == pytest.approx(2 * LIMIT)


async def test_daemon_is_left_soon_when_the_user_asks_for_the_end(autojump_clock):
    calls, daemon = Calls(60.0), Daemon()
    daemon.stop()
    async with trio.open_nursery() as nursery:

        async def wait():
            with pytest.raises(DaemonSilent, match="was to be ended"):
                await calls.make(DEVICE, "a call", daemon.call("a"))

        nursery.start_soon(wait)
        await trio.sleep(1)
        began = trio.current_time()
        calls.hurry()
    for name in range(10):
        with pytest.raises(DaemonSilent):
            await calls.make(name, "a call", daemon.call(name))
    assert trio.current_time() - began == pytest.approx(HURRY)


async def test_slow_daemon_is_not_left_as_long_as_it_answers(autojump_clock):
    calls, daemon = Calls(LIMIT), Daemon(0.9 * HURRY)
    calls.hurry()
    for name in range(10):
        assert await calls.make(DEVICE, "a call", daemon.call(str(name))) == str(name)
    calls.calm()
    daemon.seconds = 0.9 * LIMIT
    assert await calls.make(DEVICE, "a call", daemon.call("a")) == "a"


async def test_cancelled_call_goes_on_and_what_it_brings_is_thrown_away(autojump_clock, monkeypatch):
    class Data:
        closed = False

        def close(self):
            self.closed = True

    monkeypatch.setattr(deadlines, "File", Data)
    calls, daemon, data = Calls(LIMIT), Daemon(3.0), Data()
    with trio.move_on_after(1) as scope:
        await calls.make(DEVICE, "a call", daemon.call("a", data))
    assert scope.cancelled_caught
    assert daemon.done == []
    await trio.sleep(3)
    assert (daemon.done, data.closed) == (["a"], True)


async def test_call_that_was_not_begun_is_never_made(autojump_clock, recwarn):
    calls, daemon = Calls(LIMIT), Daemon()
    daemon.stop()
    with pytest.raises(DaemonSilent):
        await calls.make(DEVICE, "a call", daemon.call("a"))
    with trio.move_on_after(1):
        await calls.make(DEVICE, "a call", daemon.call("b"))
    daemon.go_on()
    await trio.testing.wait_all_tasks_blocked()
    assert daemon.done == ["a"]
    assert not recwarn.list


async def test_what_may_be_cut_is_cut(autojump_clock):
    with pytest.raises(DaemonSilent, match=r"has not answered the open for 5.0 s \(--call-timeout 5s\)"):
        with within(5.0, "the open"):
            await trio.sleep_forever()
    with within(5.0, "the open"):
        await trio.sleep(4)
