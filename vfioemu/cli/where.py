# SPDX-License-Identifier: MIT
"""Which daemon a command is about."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.control_client import ControlSocket
from vfioemu.daemon.runtime_dir import CONTROL, StartError, default_runtime_dir, how_to_start, own_runtime_dir
from vfioemu.trust import StrangerError, Trusted
from vfioemu.wire.control import ControlError

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_ANSWER: Final = 60.0
"""Seconds after which a daemon that is asked something counts as stuck, or stopped."""


_HINTS: Final = {
    errno.EACCES: "it is another user's; --runtime-dir names one of yours",
    errno.ETIMEDOUT: "it is stopped, or stuck; `vfioemu stop` ends it",
}


def runtime_dir_option(function: F) -> F:
    """Options that name a daemon's directory."""
    function = click.option(
        "--runtime-dir",
        # Whoever a daemon allows passes through its directory (0711), and cannot list it.
        type=click.Path(path_type=Path, readable=False),
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
    """The directory that the options mean.

    Raises:
        CommandError: it is the instance of somebody else.
    """
    if runtime_dir is not None:
        return runtime_dir
    try:
        return own_runtime_dir(instance)
    except StartError as error:
        raise CommandError(str(error), error.hint) from None


def new_directory(runtime_dir: Path | None, instance: str) -> Path:
    """The directory that the options mean to a daemon which is to start: it need not be there yet.

    Raises:
        CommandError: no instance can have that name.
    """
    if runtime_dir is not None:
        return runtime_dir
    try:
        return default_runtime_dir(instance)
    except StartError as error:
        raise CommandError(str(error), error.hint, USAGE) from None


def connected(
    directory: Path, timeout: float | None = LONGEST_ANSWER, who: Trusted | None = None
) -> ControlSocket:
    """Connect to the control socket of the daemon of a directory; it is to be that user's, see vfioemu.trust.

    Raises:
        CommandError: none runs there, or it does not take the connection.
    """
    path = directory / CONTROL
    try:
        return ControlSocket(path, timeout, who)
    except StrangerError as error:
        raise CommandError(f"cannot use {path}: {error.strerror}") from None
    except ControlError as error:
        raise CommandError(f"the daemon in {directory} refuses the connection: {error}") from None
    except OSError as error:
        raise not_connected(directory, error) from None


def not_connected(directory: Path, error: OSError) -> CommandError:
    """What to say of the daemon of a directory whose control socket cannot be connected to."""
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return CommandError(f"no daemon runs in {directory}: {error.strerror}", how_to_start(directory))
    hint = _HINTS.get(error.errno or 0, "")
    return CommandError(f"cannot connect to {directory / CONTROL}: {error.strerror or error}", hint)


def answer(control: ControlSocket, command: str, **arguments: object) -> Any:
    """Have a command executed.

    Raises:
        CommandError: the daemon refuses, or does not answer.
    """
    try:
        return control.ask(command, **arguments)
    except ControlError as error:
        raise CommandError(f"the daemon refuses {command}: {error}") from None
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise CommandError(f"the daemon does not answer {command}: {error.strerror}", hint) from None


def ask(runtime_dir: Path | None, instance: str, command: str, **arguments: object) -> Any:
    """Have the daemon that the options mean execute a command.

    Raises:
        CommandError: it does not run, refuses, or does not answer.
    """
    with connected(directory(runtime_dir, instance)) as control:
        return answer(control, command, **arguments)
