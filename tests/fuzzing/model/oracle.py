# SPDX-License-Identifier: MIT
"""The model's opinion on an oracle device's migration and DMA log.

Written from <linux/vfio.h>'s words, not from the kernel's table: the way to a state is the shortest one over the arcs,
which does not pass through states of a session that it does not stay in.
"""

import errno
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from tests.fuzzing.model.mapping import PAGE, Refusal


class Command(IntEnum):
    """What an oracle device is told through its window; devices/oracle/device.py has the arguments."""

    PIN = 1
    UNPIN = 2
    RW = 3
    NOTIFY = 4
    LOG_DIRTY = 5
    ARCS = 6
    FAIL = 7
    SIZES = 8
    IRQ = 9
    NPINNED = 10


ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)
SAVES, P2P, PRE = 1, 2, 4
FLAGS: Final = {
    "migs": SAVES,
    "migsp": SAVES | P2P,
    "migsc": SAVES | PRE,
    "migspc": SAVES | P2P | PRE,
}
LOGGING: Final = frozenset({"log", *FLAGS})
NEEDS: Final = {RUNNING_P2P: P2P, PRE_COPY: PRE, PRE_COPY_P2P: P2P | PRE}
SAVING: Final = frozenset({STOP_COPY, PRE_COPY, PRE_COPY_P2P})
ARCS: Final = (
    (STOP, RUNNING_P2P),
    (RUNNING_P2P, STOP),
    (RUNNING_P2P, RUNNING),
    (RUNNING, RUNNING_P2P),
    (STOP, STOP_COPY),
    (STOP_COPY, STOP),
    (STOP, RESUMING),
    (RESUMING, STOP),
    (RUNNING, PRE_COPY),
    (PRE_COPY, RUNNING),
    (RUNNING_P2P, PRE_COPY_P2P),
    (PRE_COPY_P2P, RUNNING_P2P),
    (PRE_COPY, PRE_COPY_P2P),
    (PRE_COPY_P2P, PRE_COPY),
    (PRE_COPY_P2P, STOP_COPY),
)
"""The arcs that a driver makes; without P2P both ends of an arc that has it are one state."""
STREAM: Final = bytes((7 * i + 3) & 0xFF for i in range(256))
WITHOUT_P2P: Final = {RUNNING_P2P: RUNNING, PRE_COPY_P2P: PRE_COPY}
STOP_SIZE: Final = 256
"""How long a stream is that nobody has given another length."""
MIN_LOG_PAGE, MAX_LOG_PAGE = 4 << 10, 2 << 20


def stream(first: int, size: int) -> bytes:
    """Bytes of every stream of an oracle device."""
    return (STREAM * (size // 256 + 2))[first % 256 :][:size]


@dataclass(eq=False)
class Session:
    """What a data fd is of; `written` is as far as a resuming one has been filled.

    Attributes:
        saving: it is read.
        ended: the device has left it.
        position: how much has been read or written.
        spoiled: what was written is no stream.
        total: how long a stream had to be when the session began.
    """

    saving: bool
    total: int = 0
    ended: bool = False
    position: int = 0
    spoiled: bool = False

    def write(self, data: bytes) -> None:
        """Bytes for the device."""
        self.spoiled |= data != stream(self.position, len(data))
        self.position += len(data)

    @property
    def acceptable(self) -> bool:
        """The device can be what was written."""
        return not self.position or (self.position == self.total and not self.spoiled)


@dataclass(eq=False)
class Migration:
    """The migration state of one device.

    Attributes:
        flags: what it can.
        state: where it is.
        session: of the last data fd, if it goes on.
        opened: the last way opened a data fd.
    """

    flags: int
    state: int = RUNNING
    session: Session | None = None
    opened: bool = False
    fail_at: int = 0
    fail_errno: int = 0
    stop_size: int = STOP_SIZE

    def reset(self) -> None:
        """RUNNING, and no session."""
        self._end()
        self.state, self.fail_at = RUNNING, 0

    def exists(self, state: int) -> bool:
        """Whether the device has a state that can be asked for."""
        return STOP <= state <= PRE_COPY_P2P and not NEEDS.get(state, 0) & ~self.flags

    def set(self, target: int) -> None:
        """Go there, arc by arc; Refusal, with the state that was reached."""
        self.opened = False
        while self.state != target:
            if not self.exists(self.state) or not self.exists(target):
                raise Refusal("EINVAL")
            self._arc(self._next(target))

    def _next(self, target: int) -> int:
        """The next state on the way; EINVAL without one."""
        ways: deque[tuple[int, ...]] = deque([(self.state,)])
        seen = {self.state}
        arcs = self._arcs()
        while ways:
            way = ways.popleft()
            for start, end in arcs:
                if start != way[-1] or end in seen:
                    continue
                if end == target:
                    return (*way, end)[1]
                if self._may_pass(end, target):
                    seen.add(end)
                    ways.append((*way, end))
        raise Refusal("EINVAL")

    def _may_pass(self, state: int, target: int) -> bool:
        """No way goes through a session that it does not come from, or out of one and back into it."""
        if self.state in SAVING and target in SAVING and state not in SAVING:
            return False
        if state in SAVING:
            return self.state in (PRE_COPY, PRE_COPY_P2P) and state != STOP_COPY
        return state != RESUMING

    def _arcs(self) -> list[tuple[int, int]]:
        if self.flags & P2P:
            return [(a, b) for a, b in ARCS if self.exists(a) and self.exists(b)]
        merged = [(WITHOUT_P2P.get(a, a), WITHOUT_P2P.get(b, b)) for a, b in ARCS]
        return [(a, b) for a, b in merged if a != b and self.exists(a) and self.exists(b)]

    def _arc(self, target: int) -> None:
        """md_arc(), as far as it decides what becomes of states and sessions."""
        current, silent = self.state, False
        if self.fail_at:
            self.fail_at -= 1
            if not self.fail_at:
                if self.fail_errno:
                    raise Refusal(errno.errorcode[self.fail_errno])
                silent = True
        resuming = self.session if current == RESUMING else None
        if resuming is not None and not silent and not resuming.acceptable:
            self._end()
            self.state = ERROR
            raise Refusal("EINVAL")
        if not (current in SAVING and target in SAVING):
            self._end()
        self.state = target
        self.opened = False
        if silent:
            return
        begins = (target in (PRE_COPY, PRE_COPY_P2P) and current in (RUNNING, RUNNING_P2P)) or (
            current == STOP and target in (STOP_COPY, RESUMING)
        )
        if begins:
            self.session = Session(saving=target != RESUMING, total=self.stop_size)
            self.opened = True

    def _end(self) -> None:
        if self.session is not None:
            self.session.ended = True
        self.session = None


@dataclass(eq=False)
class Log:
    """A device's log of DMA, while it is on.

    Attributes:
        page_size: of the log.
        ranges: what is logged, as (first, last).
        pages: the numbers of those that were written.
        known: the model has followed so far; it does not into arithmetic that wraps, or memory with holes.
    """

    page_size: int
    ranges: tuple[tuple[int, int], ...]
    pages: set[int] = field(default_factory=set)
    known: bool = True

    def mark(self, iova: int, size: int) -> None:
        """The hardware writes."""
        if not size or size > 1 << 24 or iova + size >= 1 << 64:
            self.known &= not size
            return
        for first, last in self.ranges:
            start, end = max(iova, first), min(iova + size - 1, last)
            if start <= end:
                self.pages.update(range(start // self.page_size, end // self.page_size + 1))

    def take(self, iova: int, size: int, page_size: int) -> int:
        """What a report of [iova, iova+size) sets in a bitmap of pages of another size; forgets it."""
        last = iova + size - 1
        bits = 0
        for page in [p for p in self.pages if iova // self.page_size <= p <= last // self.page_size]:
            start = max(iova, page * self.page_size)
            end = min(last, (page + 1) * self.page_size - 1)
            count = (end - iova) // page_size - (start - iova) // page_size + 1
            bits |= ((1 << count) - 1) << (start - iova) // page_size
            self.pages.discard(page)
        return bits


def begin_log(page_size: int, ranges: tuple[tuple[int, int], ...]) -> Log:
    """A log that the device accepts; ranges are (iova, length)."""
    size = min(max(page_size, MIN_LOG_PAGE), MAX_LOG_PAGE)
    plain = size % PAGE == 0 and all(length and iova + length < 1 << 64 for iova, length in ranges)
    return Log(size, tuple((iova, iova + length - 1) for iova, length in ranges), known=plain)
