# SPDX-License-Identifier: MIT
"""Makes an input that fails shorter, step by step, as long as it fails in the same way."""

import time
import traceback
from collections.abc import Callable

from tests.fuzzing.entry import STORM, run_input
from tests.fuzzing.program import decode, encode


def failure(data: bytes) -> str | None:
    """What is wrong with an input: the exception's first line, without numbers; None if it passes."""
    try:
        run_input(data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what shall stay
        return _kind(error)
    return None


def explain(data: bytes) -> str:
    """The traceback of an input that fails, or ""."""
    try:
        run_input(data)
    except Exception:  # noqa: BLE001 - to be shown
        return traceback.format_exc()
    return ""


def shrink(data: bytes, seconds: float) -> bytes:
    """A shorter input that fails likewise; the same one if there is none, or it does not fail."""
    wanted = failure(data)
    if wanted is None:
        return data
    end = time.monotonic() + seconds

    def fails(candidate: bytes) -> bool:
        return time.monotonic() < end and failure(candidate) == wanted

    if data[:1] and data[0] & STORM:
        return _shrink_bytes(data, fails)
    return _shrink_steps(data, fails)


def _shrink_steps(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    header, steps = data[:1], decode(data[1:])
    size = max(1, len(steps) // 2)
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if fails(header + encode(fewer)):
                steps = fewer
            else:
                at += size
        size //= 2
    shorter = header + encode(steps)
    return shorter if fails(shorter) else data


def _shrink_bytes(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    size = len(data) // 2
    while size:
        if fails(data[:-size]):
            data = data[:-size]
        else:
            size //= 2
    return data


def _kind(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return type(error).__name__ + " " + "".join(letter for letter in text if not letter.isdigit())
