# SPDX-License-Identifier: MIT
"""`vfioemu serve`: run a daemon, in the foreground or in the background."""

import contextlib
import logging
import os
import shlex
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import trio

from vfioemu.cli.background import LOG, leave_terminal, start
from vfioemu.cli.errors import USAGE, CommandError, cannot_start
from vfioemu.cli.machine_options import device_option, machine_of
from vfioemu.cli.memlock import memlock_option
from vfioemu.cli.tracing import trace_options
from vfioemu.cli.where import new_directory, runtime_dir_option
from vfioemu.core.machine import OptionsError
from vfioemu.core.memory.accounting import Memlock
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.arguments import DeviceArgument
from vfioemu.daemon.config import refused_options
from vfioemu.daemon.runtime_dir import SOCKET, StartError, naming
from vfioemu.daemon.serve import Options, Ready, serve
from vfioemu.io.base.limits import Limits
from vfioemu.trace.options import TraceOptions
from vfioemu.uapi import releases
from vfioemu.wire.messages import MemoryMode


def _opened(_: click.Context, parameter: click.Parameter, fd: int | None) -> int | None:
    """Check an inherited fd."""
    if fd is not None:
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            raise click.BadParameter(f"fd {fd} is not open", param=parameter) from None
        if stat.S_ISDIR(kind) or (stat.S_ISREG(kind) and parameter.name == "exit_with_fd"):
            raise click.BadParameter(
                f"fd {fd} is a regular file or directory, and cannot signal anything", param=parameter
            )
    return fd


def _watched(exit_with_parent: bool, fd: int | None) -> int:
    """Return the fd that ends the daemon when it becomes readable; -1 for none.

    If the parent ended before this runs, we are a child of another process: of process 1, which is not the real parent of a
    process in another session than its own.
    """
    if fd is not None:
        return fd
    if not exit_with_parent:
        return -1
    parent = os.getppid()
    if parent != 1 or os.getsid(1) == os.getsid(0):
        with contextlib.suppress(ProcessLookupError):
            return os.pidfd_open(parent)
    raise CommandError(
        "the process that started the daemon has ended already", "--exit-with-fd has no such race"
    )


_HELP: Final = """Emulate a machine until SIGTERM or SIGINT.

\b
vfioemu serve --device dma-engine --background
vfioemu run --instance default -- PROGRAM;  vfioemu stop

Clients connect to vfio.sock in the runtime directory, commands go to control.sock.
"""


@click.command(name="serve", help=_HELP)
@click.option(
    "-m",
    "--machine",
    "machine_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What to emulate: a TOML file.",
)
@device_option
@click.option("--background", is_flag=True, help="Return when it is ready; it goes on until `vfioemu stop`.")
@runtime_dir_option
@click.option("--private", is_flag=True, help="Have a new runtime directory, which goes with the daemon.")
@trace_options
@click.option(
    "--profile", type=click.Choice(releases.names()), help="A kernel other than the machine file's."
)
@memlock_option
@click.option(
    "--memory",
    type=click.Choice(["ask", "process_vm", "auto"]),
    default="ask",
    show_default=True,
    help="How client memory is reached; all but ask only for a daemon that is yours alone.",
)
@click.option("--allow-uid", multiple=True, type=click.IntRange(0), help="Who may connect besides you.")
@click.option(
    "--ask-timeout",
    type=click.FloatRange(0.1),
    default=Limits().ask_timeout,
    show_default=True,
    help="Seconds to wait for a client that owes an answer.",
)
@click.option(
    "--ready-fd",
    type=click.IntRange(0),
    callback=_opened,
    help="Write the socket's path to this fd when ready.",
)
@click.option("--exit-with-parent", is_flag=True, help="End when the process that started it has ended.")
@click.option(
    "--exit-with-fd",
    type=click.IntRange(0),
    callback=_opened,
    help="End when this fd, a pidfd or a pipe, says that its other side has.",
)
def command(
    machine_file: Path | None,
    devices: tuple[DeviceArgument, ...],
    profile: str | None,
    runtime_dir: Path | None,
    instance: str,
    background: bool,
    private: bool,
    ready_fd: int | None,
    memory: str,
    memlock: Memlock | None,
    allow_uid: tuple[int, ...],
    ask_timeout: float,
    exit_with_parent: bool,
    exit_with_fd: int | None,
    trace: TraceOptions | None,
) -> int:
    """Emulate a machine until a signal; the exit status."""
    if private and runtime_dir is not None:
        raise click.UsageError("--private makes a new directory and cannot be combined with --runtime-dir")
    spec = machine_of(machine_file, devices)
    if profile is not None:
        spec = replace(spec, profile=profile)
    if memlock is not None:
        spec = replace(spec, memlock=memlock)
    options = Options(
        runtime_dir=None if private else new_directory(runtime_dir, instance),
        memory=MemoryMode.ASK if memory == "ask" else MemoryMode.PROCESS_VM,
        fallback=memory == "auto",
        uids=frozenset(allow_uid),
        limits=Limits(ask_timeout=ask_timeout),
        until=_watched(exit_with_parent, exit_with_fd),
        trace=trace,
    )
    notify = os.environ.get("NOTIFY_SOCKET", "")
    if not background:
        ready = Ready(fd=-1 if ready_fd is None else ready_fd, notify_socket=notify)
        return _serve(spec, options, ready, machine_file)
    if exit_with_parent or ready_fd is not None:
        raise click.UsageError(
            "--background goes without --exit-with-parent and --ready-fd: it returns when all is ready"
        )
    if trace is not None and trace.path is None:
        raise click.UsageError("--background leaves no stderr to trace to: name a file, --trace=FILE")
    if not click.get_current_context().find_root().params.get("verbose"):
        logging.getLogger().setLevel(
            logging.WARNING
        )  # nobody rotates this log, and a line per refused call would fill the disk
    path, number = start(
        lambda fd: _serve(
            spec, options, Ready(fd=fd, notify_socket=notify, before=leave_terminal), machine_file
        )
    )
    if not path:
        cannot_start("the daemon", number)
    _say_what_next(Path(path).parent, number, named=bool(runtime_dir or private), instance=instance)
    return 0


def _serve(spec: MachineSpec, options: Options, ready: Ready, machine_file: Path | None) -> int:
    """Serve until a signal; return the exit status."""
    try:
        return 128 + trio.run(serve, spec, options, ready)
    except StartError as error:
        raise CommandError(str(error), error.hint) from None
    except OptionsError as error:
        in_file = None if machine_file is None else refused_options(machine_file, error)
        raise CommandError(str(in_file or error), exit_code=USAGE) from None
    except ValueError as error:
        raise CommandError(f"{machine_file or 'the machine'}: {error}", exit_code=USAGE) from None


def _say_what_next(directory: Path, pid: int, *, named: bool, instance: str) -> None:
    """Print what can be done with a daemon in the background."""
    quoted = shlex.quote(os.fspath(directory) if named else instance)
    use = f"--connect {quoted}" if named else f"--instance {quoted}"
    print(f"ready: {directory / SOCKET} (pid {pid}, log: {directory / LOG})")
    print(f"  vfioemu run {use} -- PROGRAM   runs a program on it")
    print(f"  vfioemu stop{naming(directory)}   ends it")
