# SPDX-License-Identifier: MIT
"""Parse and format values as people type them: sizes, rates, durations."""

import re
from typing import Final

import click

from vfioemu.sizes import parse_size

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0}


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value if isinstance(value, int) else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Rate(click.ParamType[int]):
    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value).removesuffix("/s"))
        except ValueError:
            self.fail(f"{value!r} is not a rate; try 128MiB/s, or 0 for no limit", param, ctx)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration; try 300ms or 2s", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


SIZE: Final = _Size()
RATE: Final = _Rate()
DURATION: Final = _Duration()


def duration(seconds: float) -> str:
    """Format seconds for people: ``281 ms``, ``1.50 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def exact_rate(count: int) -> str:
    """Format bytes per second as one would type them: ``64MiB/s``, ``1B/s``."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and not count % (1 << shift):
            return f"{count >> shift}{unit}/s"
    return f"{count}B/s"
