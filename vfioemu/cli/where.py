# SPDX-License-Identifier: MIT
"""Find the daemon that a command acts on."""

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
"""Seconds to wait for an answer; after that the daemon counts as stuck or stopped."""


_HINTS: Final = {
    errno.EACCES: "the daemon belongs to another user; --runtime-dir names one of yours",
    errno.ETIMEDOUT: "the daemon is stopped or stuck; `vfioemu stop` ends it",
}


def runtime_dir_option(function: F) -> F:
    """Add the options that name a daemon's directory."""
    function = click.option(
        "--runtime-dir",
        # readable=False: another user's daemon may let us enter its directory (0711), but not list it.
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
    """Return the directory that the options name.

    Raises:
        CommandError: the instance belongs to another user, or does not run.
    """
    if runtime_dir is not None:
        return runtime_dir
    try:
        return own_runtime_dir(instance)
    except StartError as error:
        raise CommandError(str(error), error.hint) from None


def new_directory(runtime_dir: Path | None, instance: str) -> Path:
    """Return the directory that the options name for a daemon to start; it need not exist yet.

    Raises:
        CommandError: not a possible name of an instance.
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
    """Connect to the control socket in a directory; the daemon must belong to `who`, see vfioemu.trust.

    Raises:
        CommandError: no daemon runs there, or it refuses the connection.
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
    """Make the error for a control socket that cannot be connected to."""
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return CommandError(f"no daemon runs in {directory}: {error.strerror}", how_to_start(directory))
    hint = _HINTS.get(error.errno or 0, "")
    return CommandError(f"cannot connect to {directory / CONTROL}: {error.strerror or error}", hint)


def answer(control: ControlSocket, command: str, **arguments: object) -> Any:
    """Execute a command on a daemon; return its result.

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
    """Execute a command on the daemon that the options name; return its result.

    Raises:
        CommandError: no daemon runs, or it refuses or does not answer.
    """
    with connected(directory(runtime_dir, instance)) as control:
        return answer(control, command, **arguments)
