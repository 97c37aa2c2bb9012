# SPDX-License-Identifier: MIT
"""What goes wrong while a guest is built: at which step, and on what. Hints are made of it (cli/hints.py)."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum


class Step(StrEnum):
    """What was being done when a guest could not be built."""

    ROOM = "room"
    CONNECT = "connect"
    RAM = "ram"
    GROUP = "group"
    MEMORY = "memory"
    DEVICE = "device"
    PROGRAM = "program"
    OTHER = "other"


class BuildError(OSError):
    """A guest that could not be built.

    Attributes:
        step: while what was done.
        filename: on what.
    """

    def __init__(self, step: Step, number: int | None, why: str, what: str) -> None:
        super().__init__(number, why, what)
        self.step = step


@contextmanager
def about(step: Step, what: str) -> Iterator[None]:
    """Say what an OSError is about; the innermost knows best."""
    try:
        yield
    except BuildError:
        raise
    except OSError as error:
        raise BuildError(step, error.errno, error.strerror or str(error), what) from None
