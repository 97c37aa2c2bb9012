# SPDX-License-Identifier: MIT
"""A link that is modelled: what goes over it takes the time that it would take there. No clock, no I/O: it is told the time.

`sim:bandwidth=128MiB/s,rtt=2ms,loss=0.01%,stall=200ms/5s:ADDRESS` puts one over any address. `channel.py` waits for it in real time,
`virtual.py` counts with it; so the same numbers come out of both.

    bandwidth   bytes per second, of the headers too
    rtt         the time from a question to its answer, beyond what both take to be carried
    loss        the share of packets that are lost. What TCP makes of it: each is sent again, and it is no faster than
                MSS / rtt * sqrt(3 / (2 * loss)) (Mathis et al. 1997), whatever the bandwidth
    stall       in every so many seconds the link carries nothing for so long, at their end

The source has both halves of the round trip: what it sends leaves at the rate of the link, what it hears it hears a whole round trip
later. Of that the guest's outage, and all that the source decides, is the same as if each way took half.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from vfioemu.sizes import parse_size

MSS: Final = 1448
"""Bytes of a segment in a packet of 1500, with time stamps."""
CONTINUOUS: Final = 0.01
"""Seconds by which a sender may be late with the next piece and the link still counts as busy in between, as if a socket buffer had been
full: a source on a busy machine is not the link's fault. No outage is shorter by more than that."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)(%?)")
_LONGEST: Final = 3600.0


class LinkError(ValueError):
    """A link that cannot be meant, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """A link.

    Attributes:
        bandwidth: bytes per second; 0 = no limit.
        rtt: seconds.
        loss: share of packets, below 1.
        stall: seconds in each `every` in which it carries nothing; 0 = never.
        every: seconds.
        text: as it was written.
    """

    bandwidth: int = 0
    rtt: float = 0.0
    loss: float = 0.0
    stall: float = 0.0
    every: float = 0.0
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> "LinkSpec":
        """Read `bandwidth=..,rtt=..,loss=..,stall=../..`, in any order; LinkError says what is wrong with it."""
        values: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if name not in ("bandwidth", "rtt", "loss", "stall") or not equals:
                raise LinkError(f"{part!r} is none of bandwidth=, rtt=, loss=, stall=")
            if name in values:
                raise LinkError(f"{name} twice")
            values[name] = value
        stall, _, every = values.get("stall", "0s/1s").partition("/")
        spec = cls(
            bandwidth=_rate(values.get("bandwidth", "0")),
            rtt=_duration("rtt", values.get("rtt", "0s")),
            loss=_share(values.get("loss", "0")),
            stall=_duration("stall", stall),
            every=_duration("stall", every),
            text=text,
        )
        if spec.stall >= spec.every:
            raise LinkError(
                f"stall={values['stall']}: a link that stands still for longer than it goes; expected as 200ms/5s"
            )
        if spec.loss and not spec.rtt:
            raise LinkError("loss without rtt: what a lost packet costs is told by the round trip")
        return spec

    def __str__(self) -> str:
        return self.text

    @property
    def rate(self) -> float:
        """Bytes per second that TCP gets over it while it does not stall; infinite without a limit."""
        rate = self.bandwidth * (1 - self.loss) if self.bandwidth else math.inf
        if self.loss:
            rate = min(rate, MSS / self.rtt * math.sqrt(1.5 / self.loss))
        return rate

    @property
    def mean(self) -> float:
        """Bytes per second on the average, with the stalls."""
        return self.rate * (1 - self.stall / self.every) if self.stall else self.rate


class Link:
    """One direction of a link that carries one thing after the other, and the way back.

    Args:
        spec: the link.

    Attributes:
        free: when what it has been given has left it.
    """

    def __init__(self, spec: LinkSpec) -> None:
        self.spec = spec
        self.free = -math.inf
        self._began: float | None = None

    def moment(self, seconds: float) -> int:
        """Return how many bytes it carries in so many seconds, at least one."""
        return max(1, int(min(self.spec.rate * seconds, 1 << 60)))

    def carry(self, now: float, size: int) -> float:
        """Give it so many bytes; returns when the last of them has left."""
        start = self.free if now - self.free < CONTINUOUS else now
        self.free = self._after(start, size / self.spec.rate)
        return self.free

    def answer(self, now: float, size: int = 0) -> float:
        """Return when the source hears what has come back now: after all that it has sent, and a round trip."""
        return self._after(max(now, self.free) + self.spec.rtt, size / self.spec.rate)

    def _after(self, start: float, seconds: float) -> float:
        """Return when the link has worked so long from `start` on; it does not work while it stalls."""
        spec = self.spec
        if self._began is None:
            self._began = start
        if not spec.stall:
            return start + seconds
        works = spec.every - spec.stall
        turns, phase = divmod(start - self._began, spec.every)
        done = min(phase, works) + seconds  # work since the turn began
        more, rest = divmod(done, works)
        if not rest and more and seconds:
            more, rest = more - 1, works  # the last byte leaves before the stall
        return self._began + (turns + more) * spec.every + rest


def _rate(text: str) -> int:
    try:
        rate = parse_size(text.removesuffix("/s"))
    except ValueError:
        raise LinkError(f"bandwidth={text}: expected a rate, as 128MiB/s") from None
    return rate


def _duration(name: str, text: str) -> float:
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.nan
    if not seconds <= _LONGEST:
        raise LinkError(f"{name}={text}: expected a time, as 2ms, of {_LONGEST:.0f}s at most")
    return seconds


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not share < 1:
        raise LinkError(f"loss={text}: expected a share below 1, as 0.01 or 1%")
    return share
