# SPDX-License-Identifier: MIT
"""Options of commands that start a daemon with a trace."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vfioemu.trace.filter import Filter
from vfioemu.trace.options import TraceOptions

F = TypeVar("F", bound=Callable[..., Any])

_STDERR = "-"


def trace_options(function: F) -> F:
    """Add --trace, --trace-format and --trace-filter; the command gets `trace`, a TraceOptions or None."""

    @click.option(
        "--trace",
        "trace_file",
        is_flag=False,
        flag_value=_STDERR,
        metavar="[FILE]",
        help="Write every call, in strace's grammar and with the reason of each error. [default: to stderr]",
    )
    @click.option(
        "--trace-format", type=click.Choice(["text", "json"]), default="text", help="How to write it."
    )
    @click.option(
        "--trace-filter", multiple=True, metavar="EXPR", callback=checked, help="What of it; see `trace -e`."
    )
    @functools.wraps(function)
    def with_trace(
        *args: Any, trace_file: str | None, trace_format: str, trace_filter: tuple[str, ...], **kwargs: Any
    ) -> Any:
        return function(*args, trace=asked(trace_file, trace_format, trace_filter), **kwargs)

    return with_trace  # type: ignore[return-value]  # click's decorators keep the type in a way that mypy cannot see


def asked(file: str | None, format: str, expressions: tuple[str, ...]) -> TraceOptions | None:
    """Make TraceOptions from the options; None without --trace."""
    if file is None:
        if expressions:
            raise click.UsageError("--trace-filter needs --trace")
        return None
    return TraceOptions(
        path=None if file == _STDERR else Path(file),
        format="json" if format == "json" else "text",
        expressions=expressions,
    )


def checked(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check filter expressions, and return them."""
    try:
        Filter(values)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None
    return values
