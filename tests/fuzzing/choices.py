# SPDX-License-Identifier: MIT
"""Choices that a byte string makes: what is written against `random.Random` can be driven by a fuzzer.

Each choice takes as many bytes as it needs, so that a changed byte changes one choice and leaves the others. When the
bytes are used up, every choice is the first one; whoever loops asks `left`.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

T = TypeVar("T")


class Choices(random.Random):
    """A source of choices.

    Args:
        data: decides.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been used."""
        return max(0, len(self._data) - self._at)

    def _number(self, below: int) -> int:
        size = max(1, -(-(below - 1).bit_length() // 8))
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") % below

    def random(self) -> float:
        """[0, 1) in steps of 1/65536."""
        return self._number(1 << 16) / (1 << 16)

    def getrandbits(self, k: int, /) -> int:
        """A number of k bits."""
        return self._number(1 << k) if k else 0

    def randbytes(self, n: int) -> bytes:
        """So many bytes."""
        return self._number(1 << 8 * n).to_bytes(n, "little") if n else b""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """A number of a range."""
        numbers = range(start) if stop is None else range(start, stop, step)
        return numbers[self._number(len(numbers))]

    def randint(self, a: int, b: int) -> int:
        """A number from a to b, both included."""
        return a + self._number(b - a + 1)

    def choice(self, seq: Any) -> Any:
        """One of a sequence."""
        return seq[self._number(len(seq))]

    def choices(
        self,
        population: Any,
        weights: Sequence[Any] | None = None,
        *,
        cum_weights: Sequence[Any] | None = None,
        k: int = 1,
    ) -> list[Any]:
        """So many of a sequence, by weight."""
        if weights is None and cum_weights is None:
            return [self.choice(population) for _ in range(k)]
        limits = list(accumulate(weights or ())) if cum_weights is None else list(cum_weights)
        return [_first_above(population, limits, self.random() * limits[-1]) for _ in range(k)]


def _first_above(population: Sequence[T], limits: Iterable[float], point: float) -> T:
    return next(thing for thing, limit in zip(population, limits, strict=True) if point < limit)
