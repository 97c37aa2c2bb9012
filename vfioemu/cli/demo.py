# SPDX-License-Identifier: MIT
"""`vfioemu demo`: two daemons, and a guest that moves between them while devices write into its memory."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

import vfioemu.demo
from vfioemu.cli.errors import FAILED, CommandError
from vfioemu.cli.values import DURATION, RATE
from vfioemu.private import private_directory

FILES = Path(vfioemu.demo.__file__).parent
START_SECONDS = 30


@click.command(name="demo")
@click.option("--bandwidth", type=RATE, default="64MiB/s", show_default=True, help="While the guest runs.")
@click.option(
    "--downtime", type=DURATION, default="100ms", show_default=True, help="How long it may stand still."
)
@click.option("--tcp", is_flag=True, help="Over TCP on loopback instead of a UNIX socket.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Have each daemon write what it was asked, and why it refused, to FILE.a and FILE.b.",
)
def command(bandwidth: int, downtime: float, tcp: bool, trace: Path | None) -> int:
    """Move a guest of 256 MiB between two daemons and verify every page and every device.

    Its CPUs and two DMA devices write all the time. One device logs its DMA itself, the pages of the other one are
    tracked by its container.
    """
    with private_directory("demo") as base, contextlib.ExitStack() as stack:
        for side in ("a", "b"):
            socket = stack.enter_context(_daemon(base / side, trace and Path(f"{trace}.{side}")))
            print(f" daemon {side}: {socket}", flush=True)
        uri = "tcp:127.0.0.1:0" if tcp else f"unix:{base}/migration.sock"
        incoming, uri = stack.enter_context(_incoming(uri, base))
        print(f" vfioemu incoming {uri}, on daemon b", flush=True)
        insecure = ["--insecure"] if tcp else []  # the peer's uid is checked all the same
        limits = [
            *insecure,
            "--bandwidth",
            f"{bandwidth / (1 << 20):g}MiB/s",
            "--downtime",
            f"{downtime * 1000:g}ms",
        ]
        print(f" vfioemu migrate {uri} {' '.join(limits)}, on daemon a", flush=True)
        migrate = _command(
            "migrate", uri, "--guest", FILES / "guest.toml", "--runtime-dir", base / "a", *limits
        )
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # Ctrl-C is for `migrate`, which cancels; we clean up behind it
        code = subprocess.run(migrate, check=False).returncode
        if code:
            return code
        output, _ = incoming.communicate(timeout=START_SECONDS)
        print(" and what the destination says:")
        print(output.rstrip(), flush=True)
        return incoming.returncode


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "vfioemu.cli.main", *(os.fspath(argument) for argument in arguments)]


@contextlib.contextmanager
def _daemon(directory: Path, trace: Path | None) -> Iterator[str]:
    """A daemon as a process of its own; its socket."""
    arguments: list[str | Path] = [
        "-q",
        "serve",
        "--machine",
        FILES / "machine.toml",
        "--runtime-dir",
        directory,
        "--exit-with-parent",
        *([f"--trace={trace}"] if trace else []),
    ]
    with _ready(arguments, None) as (_, socket):
        yield socket


@contextlib.contextmanager
def _incoming(uri: str, base: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The destination; its process and where it listens."""
    arguments: list[str | Path] = [
        "incoming",
        uri,
        "--guest",
        FILES / "guest.toml",
        "--runtime-dir",
        base / "b",
        *(["--insecure"] if uri.startswith("tcp:") else []),
    ]
    with _ready(arguments, subprocess.PIPE) as ready:
        yield ready


@contextlib.contextmanager
def _ready(
    arguments: Sequence[str | Path], stdout: int | None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a command and wait until it says that it is ready; ended when the block ends."""
    read, write = os.pipe()
    process = subprocess.Popen(
        _command(*arguments, "--ready-fd", str(write)),
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT if stdout else None,
        text=True,
        process_group=0,  # Ctrl-C is for `migrate`, which has to find the others alive
    )
    os.close(write)
    try:
        with open(read, encoding="utf-8") as pipe:
            said = pipe.readline().strip()
        if not said:
            raise CommandError(f"`vfioemu {arguments[0]}` did not start", "what it says is above", FAILED)
        yield process, said
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
