# SPDX-License-Identifier: MIT
"""What limits are held against: a process, its user, and all."""

import errno
import gc
import os
from weakref import WeakValueDictionary

import pytest
import trio
import trio.testing

from tests.io.fake import Raw, serving
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import FEW, Accounts
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.turns import Rounds
from vfioemu.io.memory.regions import keep_region
from vfioemu.wire.messages import MemoryMode

ROOM = 1000


def everybody(*, several=False, **limits):
    return Accounts(Limits(**({"max_fds": ROOM} | limits)), Rounds(), several=several)


def fill(accounts, account):
    """Take as many fds as the process gets: why it gets no more."""
    while not (why := account.no_fd()):
        account.add_fds(1)
    return why


def test_the_last_quarter_of_the_fds_is_for_those_who_have_few():
    accounts = everybody()
    greedy = [accounts.of(pid, 1) for pid in range(3)]
    whys = [fill(accounts, account) for account in greedy]

    assert accounts.fds == ROOM * 3 // 4 + 2 * FEW  # each of those who came late has its few
    assert whys[0] == f"the process has {ROOM * 3 // 4} of the daemon's fds, and all together 750 of {ROOM}"
    assert accounts.no_fd(None) == ""  # whoever connects now is served
    modest = accounts.of(9, 1)
    modest.add_fds(FEW - 1)
    assert modest.no_fd() == ""


def test_when_all_are_gone_nobody_gets_one():
    accounts = everybody()
    held = [accounts.of(pid, 1) for pid in range(ROOM)]
    for account in held:
        account.add_fds(1)

    assert accounts.no_fd(None) == f"the daemon has no fd left: {ROOM} of {ROOM} are in use"
    held.pop().add_fds(-1)
    assert accounts.no_fd(None) == ""


def test_of_several_users_none_has_more_than_half():
    accounts = everybody(several=True)
    processes = [accounts.of(pid, 1) for pid in range(3)]

    whys = [fill(accounts, process) for process in processes]

    assert whys[0] == f"the user's processes have 500 of the daemon's {ROOM} fds"
    assert accounts.user(1).fds == ROOM // 2 + 2 * FEW
    other = accounts.of(7, 2)
    other.add_fds(FEW)
    assert other.no_fd() == ""


def test_what_the_system_allows_is_the_limit_and_some_are_kept_back():
    assert FEW <= everybody(max_fds=0).max_fds


def test_memory_has_an_end_for_a_process_a_user_and_all():
    accounts = everybody(several=True, max_pins=10, max_all_pins=40)
    one, two, three = (accounts.of(pid, 1) for pid in range(3))
    other = accounts.of(3, 2)

    with pytest.raises(IoctlError, match="11 more, a process may have 10 and have 0"):
        one.quotas.pins.take(11)
    one.quotas.pins.take(10)
    two.quotas.pins.take(10)
    with pytest.raises(IoctlError, match="the user's processes may have 20 and have 20"):
        three.quotas.pins.take(1)
    other.quotas.pins.take(10)
    one.quotas.pins.give(10)
    three.quotas.pins.take(1)


def test_what_is_left_of_a_process_still_counts():
    accounts = everybody(max_pins=10, max_all_pins=10)
    quotas = accounts.of(1, 1).quotas
    quotas.pins.take(10)

    with pytest.raises(IoctlError, match="the user's processes may have 10"):
        accounts.of(2, 1).quotas.pins.take(1)
    quotas.pins.give(10)
    accounts.of(2, 1).quotas.pins.take(10)


def test_a_devices_memory_that_a_client_has_mapped_counts_once_and_is_given_back():
    account = everybody().of(1, 1)
    first, second = (os.memfd_create("bar", os.MFD_CLOEXEC) for _ in range(2))
    try:
        token, other, space = {}, {}, WeakValueDictionary()
        for holder in (token, token, other):
            keep_region(first, account, holder, space)
        assert account.fds == 1
        token.clear()
        gc.collect()
        assert account.fds == 1
        why = fill(account._all, account)
        with pytest.raises(IoctlError) as refused:
            keep_region(second, account, token, space)
        assert (refused.value.errno, refused.value.why) == (errno.EMFILE, why)
        before = account.fds
        other.clear()  # no file of the device is left
        gc.collect()
        assert account.fds == before - 1
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize(("memory", "fds"), [(MemoryMode.ASK, 1), (MemoryMode.PROCESS_VM, 3)])
async def test_a_session_counts_with_all_that_it_takes(memory, fds):
    """Its connection, and where memory is reached through /proc, the two files there."""
    async with serving(memory=memory) as served:
        async with Raw(served.path):
            assert served.server.accounts.fds == fds
        while served.server.accounts.fds:
            gc.collect()
            await trio.testing.wait_all_tasks_blocked()
