# SPDX-License-Identifier: MIT
"""Who holds what of the daemon's: processes, users, and all of them. It is what limits are held against.

There are two kinds of limits. Memory has a number for a process, for a user and for all (core/base/quota.py). Fds have one number,
the system's for this daemon, and are needed by everybody, to connect and to open anything. So the last quarter of them is
kept for processes that have few, and where several users share the daemon, none has more than half.
"""

import os
import resource
from typing import Final
from weakref import WeakValueDictionary

import trio

from vfioemu.core.base.quota import Quotas
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.turns import Rounds, Share
from vfioemu.io.base.usage import Usage

FEW: Final = 64
"""Who has as many fds of ours, or fewer, gets one as long as there is any."""
_OWN: Final = 64
"""Fds that the daemon may come to need for itself, beyond those that it has when it starts."""


class User:
    """What the processes of a user hold together.

    Attributes:
        fds: of ours that exist for them.
    """

    __slots__ = ("fds", "quotas", "share")

    def __init__(self, quotas: Quotas, share: Share) -> None:
        self.quotas = quotas
        self.share = share
        self.fds = 0


class Account(Usage):
    """What one process holds, over all its sessions; as a usage, the memory that it shares.

    It lasts as long as anything of that does: whoever hangs up and connects again finds what he has not given back.

    Attributes:
        connections: greeted or not.
        files: tokens that were made for it and are not released.
        eventfds: of its own that we hold.
        closing: foreign fds that it sent and whose close() has not returned.
        quotas: what its containers may take of our memory.
        share: of the daemon's time.
    """

    __slots__ = (
        "__weakref__",
        "_all",
        "_one_closed",
        "closing",
        "connections",
        "eventfds",
        "fds",
        "files",
        "pid",
        "quotas",
        "share",
        "uid",
        "user",
    )

    def __init__(self, pid: int, uid: int, everybody: "Accounts") -> None:
        super().__init__(everybody.shared)
        self._all = everybody
        self.pid = pid
        self.uid = uid
        self.user = everybody.user(uid)
        self.quotas = everybody.quotas_of_process(self.user)
        self.share = Share(everybody.rounds, self.user.share)
        self.connections = 0
        self.files = 0
        self.eventfds = 0
        self.fds = 0
        self.closing = 0
        self._one_closed: trio.Event | None = None

    def add_fds(self, number: int) -> None:
        """Count fds of ours that exist for it: so many more, or fewer."""
        self.fds += number
        self.user.fds += number
        self._all.fds += number

    def no_fd(self) -> str:
        """Say why it gets no further fd of ours; nothing if it does."""
        return self._all.no_fd(self)

    def one_closed(self) -> None:
        """Note that a foreign fd of its has been closed."""
        self.closing -= 1
        if self._one_closed is not None:
            self._one_closed.set()
            self._one_closed = None

    async def closed_down_to(self, most: int) -> None:
        """Wait until no more than `most` foreign fds are being closed."""
        while self.closing > most:
            if self._one_closed is None:
                self._one_closed = trio.Event()
            await self._one_closed.wait()


class Accounts:
    """The accounts of all processes.

    Args:
        limits: what each may have.
        rounds: of the daemon's time.
        several: more than one user may connect.

    Attributes:
        shared: the memory that all share.
        fds: of ours that exist for clients.
        max_fds: how many may.
    """

    def __init__(self, limits: Limits, rounds: Rounds, *, several: bool) -> None:
        self.rounds = rounds
        self.shared = Usage()
        self.fds = 0
        self.max_fds = limits.max_fds or _fds_left()
        self._limits = limits
        self._parts = 2 if several else 1
        self._quotas = Quotas.of(
            mappings=limits.max_all_mappings, pins=limits.max_all_pins, bitmaps=limits.max_all_bitmaps
        )
        self._accounts: WeakValueDictionary[tuple[int, int], Account] = WeakValueDictionary()
        self._users: dict[int, User] = {}  # few may connect at all

    def find(self, pid: int, uid: int) -> Account | None:
        """Find a process that holds something."""
        return self._accounts.get((pid, uid))

    def of(self, pid: int, uid: int) -> Account:
        """Find a process, or begin its account."""
        account = self._accounts.get((pid, uid))
        if account is None:
            account = self._accounts[pid, uid] = Account(pid, uid, self)
        return account

    def user(self, uid: int) -> User:
        """Find a user, or begin the account of his processes."""
        user = self._users.get(uid)
        if user is None:
            limits = self._limits
            quotas = Quotas.of(
                mappings=limits.max_all_mappings // self._parts,
                pins=limits.max_all_pins // self._parts,
                bitmaps=limits.max_all_bitmaps // self._parts,
                whole=self._quotas,
                whose="the user's processes",
            )
            user = self._users[uid] = User(quotas, Share.of_user(self.rounds))
        return user

    def quotas_of_process(self, user: User) -> Quotas:
        """Return what a process of that user may have."""
        limits = self._limits
        return Quotas.of(
            mappings=limits.max_mappings,
            pins=limits.max_pins,
            bitmaps=limits.max_bitmaps,
            whole=user.quotas,
            whose="a process",
        )

    def no_fd(self, account: Account | None) -> str:
        """Say why a process, None for one that holds nothing yet, gets no further fd of ours; nothing if it does."""
        if self.fds >= self.max_fds:
            return f"the daemon has no fd left: {self.fds} of {self.max_fds} are in use"
        if account is None or account.fds < FEW:
            return ""
        if self.fds >= self.max_fds * 3 // 4:
            return f"the process has {account.fds} of the daemon's fds, and all together {self.fds} of {self.max_fds}"
        if account.user.fds >= self.max_fds // self._parts:
            return f"the user's processes have {account.user.fds} of the daemon's {self.max_fds} fds"
        return ""


def _fds_left() -> int:
    """Count the fds that we may have, without those that are our own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 30
    return max(soft - len(os.listdir("/proc/self/fd")) - _OWN, FEW)
