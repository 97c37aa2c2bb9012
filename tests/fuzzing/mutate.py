# SPDX-License-Identifier: MIT
"""Mutations that know what a program is: steps come, go and move, and fields of arguments change as fields.

Any input stays an input: what is not a program yet is decoded as one first.
"""

import random
from collections.abc import Callable
from typing import Final

from tests.fuzzing.arguments import NUMBERS
from tests.fuzzing.entry import CLEAN, STORM
from tests.fuzzing.model import PAGE
from tests.fuzzing.phrases import Phrases
from tests.fuzzing.program import FIELDS, MAX_LINKS, WITH_DATA, Link, Op, Place, Step, decode, encode
from vfioemu.uapi.registry import FEATURES, IOCTLS

HEADER: Final = 1
"""Bytes before the program (see entry.py)."""
Fields = list[tuple[int, int]]
_LIMITS: Final = {"B": 0xFF, "H": 0xFFFF, "I": 0xFFFFFFFF, "Q": (1 << 64) - 1}


def fields(row: int, payload: bytes) -> Fields:
    """Offset and size of the fields of an ioctl's argument, also of what follows the struct of the registry."""
    chosen = IOCTLS[row % len(IOCTLS)]
    found: Fields = []
    at = 0
    structs = [chosen.payload] if chosen.payload is not None else []
    if chosen.name == "VFIO_DEVICE_FEATURE":
        feature = FEATURES.get(int.from_bytes(payload[4:6], "little"))
        if feature is not None and feature.payload is not None:
            structs.append(feature.payload)
    for layout in structs:
        for member in layout.LAYOUT.subcons:
            found.append((at, member.sizeof()))
            at += member.sizeof()
    width = 8 if at % 8 == 0 else 4
    found += [(offset, width) for offset in range(at, len(payload) - width + 1, width)]
    return [(offset, size) for offset, size in found if offset + size <= len(payload)]


class Mutator:
    """Mutates programs.

    Args:
        seed: decides how.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.phrases = Phrases(self.rng)

    def mutate(self, data: bytes, max_size: int) -> bytes:
        """Another input that is like this one."""
        header = data[:HEADER].ljust(HEADER, b"\0")
        if self.rng.random() < 0.02:
            header = bytes([header[0] ^ self.rng.choice([CLEAN, STORM])])
        if header[0] & STORM:
            return self._bytes(header + data[HEADER:], max_size)
        steps = decode(data[HEADER:]) or self.phrases.any() + self.phrases.map()
        for _ in range(self.rng.choice([1, 1, 2, 3, 5])):
            self.rng.choices(_MUTATIONS, _WEIGHTS)[0](self, steps)
        return fit(header, steps, max_size)

    def cross(self, one: bytes, other: bytes, max_size: int) -> bytes:
        """A program with a piece of another one in it."""
        if not one or not other or (one[0] | other[0]) & STORM:
            return self.mutate(one, max_size)
        steps, piece = decode(one[HEADER:]), decode(other[HEADER:])
        first = self.rng.randint(0, len(piece))
        at = self.rng.choice([len(steps), self.rng.randint(0, len(steps))])
        steps[at:at] = piece[first : first + self.rng.choice([1, 2, 4, 16])]
        return fit(one[:HEADER], steps, max_size)

    def _bytes(self, data: bytes, max_size: int) -> bytes:
        """Another storm: its choices are plain bytes."""
        rng, made = self.rng, bytearray(data)
        for _ in range(rng.choice([1, 2, 4])):
            at = rng.randint(HEADER, len(made))
            piece = rng.randbytes(rng.choice([1, 1, 4, 32]))
            made[at : at + rng.choice([0, len(piece)])] = piece
        return bytes(made[:max_size])

    # --- steps ---

    def insert(self, steps: list[Step]) -> None:
        """A phrase more."""
        at = len(steps) if self.rng.random() < 0.6 else self.rng.randint(0, len(steps))
        steps[at:at] = self.phrases.any(steps[:at])

    def delete(self, steps: list[Step]) -> None:
        """Some steps less."""
        if steps:
            at = self.rng.randrange(len(steps))
            del steps[at : at + self.rng.choice([1, 1, 1, 2, 4])]

    def repeat(self, steps: list[Step]) -> None:
        """Some steps twice."""
        if steps:
            at = self.rng.randrange(len(steps))
            piece = steps[at : at + self.rng.choice([1, 1, 2, 4])]
            to = self.rng.randint(at, len(steps))
            steps[to:to] = piece

    def swap(self, steps: list[Step]) -> None:
        """Two steps in another order."""
        if len(steps) > 1:
            at = self.rng.randrange(len(steps) - 1)
            steps[at], steps[at + 1] = steps[at + 1], steps[at]

    def disturb(self, steps: list[Step]) -> None:
        """Put a fault, or an overlap, before a step."""
        if steps:
            at = self.rng.randrange(len(steps))
            rng = self.rng
            fault = Step(Op.FAULT, (steps[at].numbers[0] & 1, rng.randrange(6), rng.randrange(3)))
            overlap = Step(Op.OVERLAP, (rng.randrange(4),), rng.randbytes(16))
            steps.insert(at, rng.choice([fault, fault, overlap]))

    # --- within a step ---

    def operand(self, steps: list[Step]) -> None:
        """Another fd, another client, another register."""
        if not steps:
            return
        at = self.rng.randrange(len(steps))
        numbers = list(steps[at].numbers)
        which = self.rng.randrange(len(numbers))
        if which == 0 and steps[at].op is not Op.WORK:
            numbers[0] ^= 1
        else:
            numbers[which] = self.rng.choice(
                [numbers[which] ^ 1, numbers[which] + 1, self.rng.randrange(256)]
            )
        limits = [_LIMITS[code] for code in FIELDS[steps[at].op].format[1:]]
        fitting = (number & limit for number, limit in zip(numbers, limits, strict=True))
        steps[at] = steps[at]._replace(numbers=tuple(fitting))

    def field(self, steps: list[Step]) -> None:
        """Change one field of one argument."""
        at = self._with_data(steps)
        if at is None or not steps[at].data:
            return
        step, rng = steps[at], self.rng
        data = bytearray(step.data)
        places = fields(step.numbers[2], step.data) if step.op is Op.IOCTL else []
        if step.op is Op.COMMAND:
            places = [(offset, 8) for offset in range(0, len(data) - 7, 8)]
        if not places:
            data[rng.randrange(len(data))] = rng.randrange(256)
            steps[at] = step._replace(data=bytes(data))
            return
        offset, size = rng.choice(places)
        old = int.from_bytes(data[offset : offset + size], "little")
        new = rng.choice(
            [
                rng.choice(NUMBERS) + rng.choice([0, 0, 1, -1]),
                old + rng.choice([1, -1, PAGE, -PAGE, 8, -8]),
                old ^ 1 << rng.randrange(8 * size),
                rng.randrange(64) * PAGE,
                rng.randrange(16),
                rng.getrandbits(8 * size),
            ]
        )
        data[offset : offset + size] = (new & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        links = tuple(link for link in step.links if link.offset != offset or rng.random() < 0.5)
        steps[at] = step._replace(data=bytes(data), links=links)

    def length(self, steps: list[Step]) -> None:
        """An argument cut off, or longer."""
        at = self._with_data(steps)
        if at is not None:
            data = steps[at].data
            cut = data[: self.rng.randint(0, len(data))]
            steps[at] = steps[at]._replace(data=self.rng.choice([cut, data + self.rng.randbytes(8)]))

    def link(self, steps: list[Step]) -> None:
        """An address or an fd in some place of an argument."""
        at = self._with_data(steps)
        if at is None:
            return
        step, rng = steps[at], self.rng
        add = rng.choice([0, 0, 4, 8, PAGE - 8, 3 * PAGE, -8, rng.randrange(64) * PAGE])
        link = Link(rng.randrange(0, 48, 4), rng.choice([0, 1, 1, 2, 2, 0x80, 0xDA]), add)
        steps[at] = step._replace(links=(*step.links, link)[-MAX_LINKS:])

    def place(self, steps: list[Step]) -> None:
        """An argument somewhere else."""
        calls = [at for at, step in enumerate(steps) if step.op is Op.IOCTL]
        if calls:
            at = self.rng.choice(calls)
            numbers = list(steps[at].numbers)
            numbers[3] = self.rng.randrange(len(Place))
            steps[at] = steps[at]._replace(numbers=tuple(numbers))

    def _with_data(self, steps: list[Step]) -> int | None:
        mine = [at for at, step in enumerate(steps) if step.op in WITH_DATA]
        return self.rng.choice(mine) if mine else None


def fit(header: bytes, steps: list[Step], max_size: int) -> bytes:
    """Encode as many steps as there is room for."""
    while True:
        data = header + encode(steps)
        if len(data) <= max_size or not steps:
            return data[:max_size]
        del steps[len(steps) // 2]


_CHOICES: Final[tuple[tuple[int, Callable[[Mutator, list[Step]], None]], ...]] = (
    (10, Mutator.insert),
    (3, Mutator.delete),
    (3, Mutator.repeat),
    (2, Mutator.swap),
    (1, Mutator.disturb),
    (3, Mutator.operand),
    (10, Mutator.field),
    (1, Mutator.length),
    (2, Mutator.link),
    (1, Mutator.place),
)
_WEIGHTS: Final = [weight for weight, _ in _CHOICES]
_MUTATIONS: Final = [mutation for _, mutation in _CHOICES]
