# SPDX-License-Identifier: MIT
"""Find the directory of the journal of hand-overs, for `migrate` and `incoming`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vfioemu.cli.errors import CommandError
from vfioemu.daemon.runtime_dir import default_runtime_dir
from vfioemu.migration.files import Folder
from vfioemu.migration.journal import Journal
from vfioemu.private import PlaceError, any_umask

F = TypeVar("F", bound=Callable[..., Any])
_NAME: Final = ".handover"
"""Among the directories of daemons; `--instance` would have to name it with its dot to take it."""


def state_dir_option(function: F) -> F:
    """Add the option that names the directory."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the hand-over is written down, so that it survives the death of this process; the default does not"
        " survive a reboot. [default: .handover in the user's runtime directory]",
    )(function)


@contextlib.contextmanager
def journal(directory: Path | None) -> Iterator[Journal]:
    """Open the journal, and make its directory if there is none; the default one is removed at the end if it is empty.

    Args:
        directory: what the user has said; None for the default.

    Raises:
        CommandError: it cannot be made, or it is not the user's alone.
    """
    path = default_runtime_dir().parent / _NAME if directory is None else directory
    try:
        if directory is None:
            with any_umask():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Folder(path)
    except PlaceError as error:
        raise CommandError(f"--state-dir {path} cannot be used: {error}", error.hint) from None
    except OSError as error:
        raise CommandError(
            f"--state-dir {path} cannot be used: {error.strerror}", "--state-dir names another one"
        ) from None
    try:
        yield Journal(folder)
    finally:
        if directory is None:
            with contextlib.suppress(OSError):  # there is something in it; or another process was quicker
                path.rmdir()
