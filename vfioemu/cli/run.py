# SPDX-License-Identifier: MIT
"""`vfioemu run`: run any program with emulated VFIO devices."""

import contextlib
import logging
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from vfioemu import private, trust
from vfioemu.cli import child, program
from vfioemu.cli.errors import MISSING, USAGE, CommandError, cannot_start
from vfioemu.cli.where import answer, connected, directory, not_connected
from vfioemu.daemon.runtime_dir import ROOT, SOCKET
from vfioemu.starting import start_daemon
from vfioemu.uapi import releases

log: Final = logging.getLogger(__name__)

_TOKEN: Final = re.compile(r"\{(sysfsdev|bdf|group|uuid)(0|[1-9][0-9]*)?\}")
_LONGEST_END: Final = 10.0
_LAST_WORDS: Final = 2.0
"""Seconds for a daemon that does not answer to end and to report the reason itself."""


@dataclass(frozen=True, slots=True)
class Where:
    """A daemon and its devices.

    Attributes:
        directory: its runtime directory.
        user: the user that it belongs to.
        devices: the values of the tokens for each device, in the order of the machine, then of --device.
    """

    directory: Path
    user: trust.Trusted
    devices: Sequence[Mapping[str, str]]


_HELP: Final = """Run a program, unmodified, with emulated VFIO devices.

\b
vfioemu run --device mtty -- qemu-system-x86_64 ... \\
            -device vfio-pci,sysfsdev={sysfsdev}

{sysfsdev} {bdf} {group} {uuid} in CMD, and $VFIOEMU_SYSFSDEV ..., stand for
the first device, {sysfsdev1} ... for the second. It ends as CMD does, with
126 or 127 if that cannot be started. docs/run.md says the rest.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Options for the daemon.

    Attributes:
        machine: options of `vfioemu serve` that describe the machine; empty for none.
        manner: further options of `vfioemu serve`, if given.
        memory: how client memory is reached.
    """

    machine: Sequence[str]
    manner: Sequence[str]
    memory: str


@click.command(name="run", help=_HELP, context_settings={"allow_interspersed_args": False})
@click.option(
    "-d", "--device", "devices", multiple=True, metavar="MODEL[,K=V...]", help="See `vfioemu devices`."
)
@click.option("-m", "--machine", metavar="FILE", help="A machine file.")
@click.option(
    "--profile",
    type=click.Choice(releases.names()),
    metavar="RELEASE",
    help=f"Answer as {' or '.join(releases.names())} does.",
)
@click.option("--connect", metavar="DIR|SOCKET", help="Use a daemon that runs already.")
@click.option("--instance", metavar="NAME", help="The same, by its name.")
@click.option(
    "--memory",
    type=click.Choice(["auto", "ask", "process_vm"]),
    default="auto",
    show_default=True,
    help="How memory is reached.",
)
@click.option("--memlock", metavar="LIMIT", help="Locked memory: off, client, or bytes.")
@click.option(
    "--trace", is_flag=False, flag_value="-", metavar="[FILE]", help="Write every call, to stderr by default."
)
@click.option("--trace-format", type=click.Choice(["text", "json"]), help="How it is written.")
@click.option("--trace-filter", multiple=True, metavar="EXPR", help="What of it; see `vfioemu trace`.")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] CMD [ARGS]...")
def command(
    devices: tuple[str, ...],
    machine: str | None,
    profile: str | None,
    connect: str | None,
    instance: str | None,
    memory: str,
    memlock: str | None,
    trace: str | None,
    trace_format: str | None,
    trace_filter: tuple[str, ...],
    command_line: tuple[str, ...],
) -> int:
    """Run a program, unmodified, with emulated VFIO devices."""
    library = _library()
    named = {"profile": profile, "memlock": memlock, "trace": trace, "trace-format": trace_format}
    wanted = Wanted(
        machine=[
            *([f"--machine={machine}"] if machine else []),
            *(f"--device={device}" for device in devices),
        ],
        manner=[
            *(f"--{name}={value}" for name, value in named.items() if value is not None),
            *(f"--trace-filter={expression}" for expression in trace_filter),
        ],
        memory=memory,
    )
    if connect is not None or instance is not None:
        if wanted.machine or wanted.manner:
            raise CommandError(
                "--connect uses a daemon as it is: no --device, --machine, --profile, --trace",
                "`vfioemu mdev start` adds devices to it, `vfioemu trace` shows its calls",
                USAGE,
            )
        return _run_connected(_directory(connect, instance), command_line, library)
    if not wanted.machine:
        raise CommandError(
            "no device given",
            "--device MODEL, --machine FILE, or --connect DIR; `vfioemu devices` lists models",
            USAGE,
        )
    return _run_private(wanted, command_line, library)


def _library() -> Path:
    from vfioemu import preload

    try:
        return preload.library()
    except FileNotFoundError as error:
        raise CommandError(f"there is no preload library: {error}", exit_code=MISSING) from None


def _run_connected(directory: Path, command_line: Sequence[str], library: Path) -> int:
    """Run a program on a daemon that runs already; return the exit status."""
    user = trust.named()
    where = Where(directory, user, _devices(directory, user))
    found = program.find(_replace(command_line, where.devices), library)
    return child.end_like(child.run(found, _environment(where, library, found.first), lambda _, __: None))


def _run_private(wanted: Wanted, command_line: tuple[str, ...], library: Path) -> int:
    """Run a program on a daemon of its own; return the exit status."""
    program.find(command_line, library)  # check it before anything is started
    user = trust.own()
    with _daemon([*wanted.machine, *wanted.manner, f"--memory={wanted.memory}"]) as (process, directory):
        try:
            where = Where(directory, user, _devices(directory, user))
        except CommandError:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the daemon lives on: report our own error
                cannot_start("the daemon", process.wait(_LAST_WORDS))
            raise
        found = program.find(_replace(command_line, where.devices), library)

        def ended(pid: int, status: int) -> None:
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                _tell_of_end(process)

        status = child.run(found, _environment(where, library, found.first), ended)
    return child.end_like(status)


# --- a daemon of our own ---


@contextlib.contextmanager
def _daemon(arguments: Sequence[str]) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run a private daemon while the block lasts; yields its process and directory. It also ends when we are killed."""
    verbose = click.get_current_context().find_root().params.get("verbose", 0)
    level = ["-v"] * verbose if verbose else ["-q"]
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    # A sanitizer in LD_PRELOAD is meant for the program, not for the daemon.
    kept = [word for word in _preloaded(environment) if not program.wants_to_be_first(word)]
    environment["LD_PRELOAD"] = ":".join(kept)
    process, path = start_daemon(
        [*level, "--part-of", "run", "serve", "--private", *arguments],
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # ^C is for the program
    )
    if not path:
        cannot_start("the daemon", process.wait())
    directory = Path(path).parent
    try:
        yield process, directory
    finally:
        _end(process)
        private.remove_tree(directory)  # left over if it was killed


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the daemon and wait for it, so that its output is complete when we return."""
    if process.returncode is not None:
        return
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(_LONGEST_END)
    except subprocess.TimeoutExpired:
        log.error("the daemon (pid %d) does not end, it is killed", process.pid)
        process.kill()
        process.wait()
        return
    # The program may end because the daemon's sockets closed, before we are told of the daemon's end.
    if process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        _tell_of_end(process)


def _tell_of_end(process: "subprocess.Popen[bytes]") -> None:
    log.error("the daemon has ended (status %d): its devices are gone", process.returncode)


# --- a daemon that runs ---


def _directory(path: str | None, instance: str | None) -> Path:
    """Return the runtime directory of a daemon that runs already."""
    place = directory(None if path is None else Path(path), instance or "default")
    try:
        if place.name == SOCKET or stat.S_ISSOCK(place.stat().st_mode):
            place = place.parent
        (place / SOCKET).stat()
    except OSError as error:
        raise not_connected(place, error) from None
    return place.resolve()


def _devices(directory: Path, user: trust.Trusted) -> list[Mapping[str, str]]:
    """Return the values of the tokens for each device."""
    with connected(directory, who=user) as control:
        return [_tokens(device) for device in answer(control, "list")["devices"]]


def _tokens(device: Mapping[str, Any]) -> Mapping[str, str]:
    name, path = str(device["name"]), str(device["sysfsdev"])
    kind = {"pci": "bdf", "mdev": "uuid"}.get(path.split("/")[3])
    return {"sysfsdev": path, "group": str(device["group"]), **({kind: name} if kind else {})}


# --- what the program gets ---


def _replace(command_line: Sequence[str], devices: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Replace the tokens by names of devices.

    Raises:
        CommandError: a token without a meaning here.
    """

    def value(match: re.Match[str]) -> str:
        number = int((match[2] or "0")[:9])  # cut, as int() refuses very long numbers; no such device exists
        if number >= len(devices):
            raise CommandError(
                f"{match[0]} in CMD: no device {number}, devices are numbered from 0 and there are {len(devices)}",
                exit_code=USAGE,
            )
        found = devices[number]
        if match[1] not in found:
            other = "uuid" if "uuid" in found else "sysfsdev"
            raise CommandError(
                f"{match[0]} in CMD: {found['sysfsdev']} has no {match[1]}",
                f"{{{other}{match[2] or ''}}} names it, or make it another kind of device with bus=",
                USAGE,
            )
        return found[match[1]]

    return tuple(_TOKEN.sub(value, word) for word in command_line)


def _environment(where: Where, library: Path, first: Sequence[str]) -> dict[str, str]:
    """Build the program's environment; `first` are the libraries to load before ours."""
    environment = dict(os.environ)
    path = _loadable(library, where.directory)
    others = [word for word in _preloaded(environment) if word != path and word not in first]
    front = [*first, *filter(program.wants_to_be_first, others)]
    environment["LD_PRELOAD"] = ":".join([*front, path, *(word for word in others if word not in front)])
    if front:
        # The library removes them again: programs started by this one may not be built for them.
        environment["VFIOEMU_FIRST"] = ":".join(front)
    options = environment.get("ASAN_OPTIONS")
    environment["ASAN_OPTIONS"] = ":".join([*([options] if options else []), "verify_asan_link_order=0"])
    environment["VFIOEMU_SOCKET"] = os.fspath(where.directory / SOCKET)
    environment["VFIOEMU_ROOT"] = os.fspath(where.directory / ROOT)
    environment[trust.VARIABLE] = str(where.user)
    for number, device in enumerate(where.devices):
        for name, text in device.items():
            environment[f"VFIOEMU_{name.upper()}{number or ''}"] = text
    return environment


def _preloaded(environment: Mapping[str, str]) -> list[str]:
    return [word for word in re.split("[ :]", environment.get("LD_PRELOAD", "")) if word]


def _is_safe(link: Path) -> bool:
    """Return True if no other user can replace the library at this path, now or later."""
    try:
        private.check_way(link)
    except (OSError, private.PlaceError):
        return False
    return True


def _loadable(library: Path, directory: Path) -> str:
    """Return the path for LD_PRELOAD: a link beside the daemon's socket, so that the library finds that in any environment.

    LD_PRELOAD cannot name a path with a blank or a colon, which are separators.
    """
    link = directory / library.name
    with contextlib.suppress(OSError):  # the link exists, or the daemon belongs to another user
        link.symlink_to(library)
    paths = [link, library] if link.resolve() == library.resolve() and _is_safe(link) else [library]
    for path in map(os.fspath, paths):
        if not re.search("[ :]", path):
            return path
    raise CommandError(
        f"LD_PRELOAD cannot name {paths[0]}: a blank or a colon in it separates two libraries",
        "let the daemon's directory be one without them: TMPDIR, XDG_RUNTIME_DIR or --runtime-dir says where it is",
    )
