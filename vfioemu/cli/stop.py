# SPDX-License-Identifier: MIT
"""`vfioemu stop`: end a daemon, and return when it has ended."""

import os
import select
import signal
import socket
import struct
from pathlib import Path
from typing import Final

import click

from vfioemu import trust
from vfioemu.cli.errors import CommandError
from vfioemu.cli.where import directory, not_connected, runtime_dir_option
from vfioemu.daemon.runtime_dir import CONTROL
from vfioemu.trust import StrangerError

_LONGEST_END: Final = 20.0


@click.command(name="stop")
@runtime_dir_option
def command(runtime_dir: Path | None, instance: str) -> None:
    """End a running daemon, as SIGTERM does, and wait until it has ended.

    Programs that have its devices open get EIO from then on.
    """
    place = directory(runtime_dir, instance)
    path = place / CONTROL
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        try:
            control.connect(os.fspath(path))
            trust.check(control, path)
            pid, _, _ = struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except StrangerError as error:
            raise CommandError(f"cannot use {path}: {error.strerror}") from None
        except OSError as error:
            raise not_connected(place, error) from None
        if not pid:
            raise CommandError(f"the daemon in {place} runs in another PID namespace: it has no pid here")
        try:
            process = os.pidfd_open(pid)  # no reused pid: the daemon lives while we are connected to it
        except ProcessLookupError:
            return
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        signal.pidfd_send_signal(process, signal.SIGCONT)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(_LONGEST_END * 1000):
            raise CommandError(
                f"the daemon (pid {pid}) has not ended in {_LONGEST_END:.0f} s", f"kill -9 {pid}"
            )
    except ProcessLookupError:
        pass
    except PermissionError:
        raise CommandError(f"the daemon (pid {pid}) belongs to another user, who has to end it") from None
    finally:
        os.close(process)
