# SPDX-License-Identifier: MIT
"""Which daemon a command is about."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from vfioemu.cli.errors import CommandError
from vfioemu.client.channel import DaemonGone
from vfioemu.client.control import Control, ControlError, control
from vfioemu.daemon.runtime_dir import CONTROL, default_runtime_dir

F = TypeVar("F", bound=Callable[..., Any])


def runtime_dir_option(function: F) -> F:
    """Options that name a daemon's directory."""
    function = click.option(
        "--runtime-dir",
        type=click.Path(path_type=Path),
        help="The daemon's directory. [default: $VFIOEMU_RUNTIME_DIR/INSTANCE, ...]",
    )(function)
    return click.option(
        "--instance",
        default="default",
        show_default=True,
        envvar="VFIOEMU_INSTANCE",
        help="Which daemon, without --runtime-dir.",
    )(function)


def directory(runtime_dir: Path | None, instance: str) -> Path:
    """The directory that the options mean."""
    return runtime_dir if runtime_dir is not None else default_runtime_dir(instance)


def ask(runtime_dir: Path | None, instance: str, command: str, **arguments: object) -> Any:
    """Have a running daemon execute a control command.

    Raises:
        CommandError: it does not run, or refuses.
    """
    path = directory(runtime_dir, instance) / CONTROL

    async def talk(work: Callable[[Control], Awaitable[object]]) -> object:
        async with control(path) as connection:
            return await work(connection)

    try:
        return trio.run(talk, functools.partial(_call, command, arguments))
    except ControlError as error:
        raise CommandError(f"the daemon refuses {command}: {error}") from None
    except DaemonGone as error:
        raise CommandError(f"no answer on {path}: {error.strerror}") from None
    except OSError as error:
        raise CommandError(
            f"cannot connect to {path}: {error.strerror}", "is the daemon running? `vfioemu serve` starts one"
        ) from None


async def _call(command: str, arguments: dict[str, object], connection: Control) -> object:
    return await connection.call(command, **arguments)
