# SPDX-License-Identifier: MIT
"""`vfioemu demo`: two daemons, and a guest that migrates between them while devices write into its memory."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

import vfioemu.demo
from vfioemu import starting
from vfioemu.cli.errors import CommandError, cannot_start
from vfioemu.cli.signals import NUMBERS, name_of
from vfioemu.cli.values import DURATION, RATE, exact_rate

FILES = Path(vfioemu.demo.__file__).parent


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
    with contextlib.ExitStack() as stack:
        signals = _Signals()
        a = stack.enter_context(_daemon(trace and Path(f"{trace}.a")))
        signals.check()
        b = stack.enter_context(_daemon(trace and Path(f"{trace}.b")))
        signals.check()
        print(f" daemon a: {a}\n daemon b: {b}", flush=True)
        uri = "tcp:127.0.0.1:0" if tcp else f"unix:{b.parent}/migration.sock"
        output = stack.enter_context(tempfile.TemporaryFile())
        incoming, uri = stack.enter_context(_incoming(uri, b.parent, output, signals))
        print(f" vfioemu incoming {uri}, on daemon b", flush=True)
        insecure = ["--insecure"] if tcp else []  # the peer's uid is checked all the same
        limits = [*insecure, "--bandwidth", exact_rate(bandwidth), "--downtime", f"{downtime * 1000:g}ms"]
        print(f" vfioemu migrate {uri} {' '.join(limits)}, on daemon a", flush=True)
        signals.check()
        migrate = subprocess.Popen(
            starting.command(
                "migrate",
                uri,
                "--guest",
                FILES / "guest.toml",
                "--runtime-dir",
                a.parent,
                "--state-dir",
                a.parent / "state",
                *limits,
            ),
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=starting.dying_with_us(),
        )
        signals.pass_on_to(migrate)
        code = _status(migrate)
        if not code:
            signals.pass_on_to(incoming)
            code = _status(incoming)
            print(" and what the destination says:")
            print(_read(output), flush=True)
        signals.settle()
        return code


class _Signals:
    """Take SIGINT, SIGTERM and SIGHUP: forward them to the working process, or else end the demo at its next step.

    The workers are in process groups of their own, so each gets a Ctrl-C once, through us. No handler raises an exception: the
    code that starts processes would swallow it.
    """

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._caught = [
            number
            for number in NUMBERS
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN  # nohup
        ]
        self._ended_by: int | None = None
        for number in self._caught:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """End here if a signal has come."""
        if self._ended_by is not None:
            self.settle()
            number = self._ended_by
            raise CommandError(f"{name_of(number)} before the migration began", exit_code=128 + number)

    def pass_on_to(self, worker: "subprocess.Popen[bytes]") -> None:
        """Forward signals to a process from now on, and one that came before."""
        self._worker = worker
        if self._ended_by is not None:
            worker.send_signal(self._ended_by)
            self._ended_by = None

    def settle(self) -> None:
        """Ignore the signals from now on: the outcome is known, only the clean-up is left."""
        for number in self._caught:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _: object) -> None:
        if self._worker is None:
            self._ended_by = number
        else:
            self._worker.send_signal(number)  # a no-op if it has ended


def _status(process: "subprocess.Popen[bytes]") -> int:
    code = process.wait()
    return code if code >= 0 else 128 - code


def _read(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace").rstrip()


@contextlib.contextmanager
def _daemon(trace: Path | None) -> Iterator[Path]:
    """Run a daemon as a process of its own while the block lasts.

    Yields its socket, in a directory that is removed at the end.
    """
    arguments: list[str | Path] = ["-q", "serve", "--private", "--machine", FILES / "machine.toml"]
    arguments += [f"--trace={trace}"] if trace else []
    process, path = starting.start_daemon(
        arguments, process_group=0
    )  # Ctrl-C is for `migrate`, which needs the daemon to roll back
    with _ended(process):
        if not path:
            cannot_start("`vfioemu serve`", process.wait())
        yield Path(path)


@contextlib.contextmanager
def _incoming(
    uri: str, directory: Path, output: IO[bytes], signals: "_Signals"
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run the destination; yields its process and URI. Its output is kept, as `migrate` uses the terminal."""
    read, write = os.pipe()
    where: list[str | Path] = ["--guest", FILES / "guest.toml", "--runtime-dir", directory]
    where += ["--state-dir", directory / "state"]
    if uri.startswith("tcp:"):
        where.append("--insecure")
    process = subprocess.Popen(
        starting.command("incoming", uri, *where, "--ready-fd", str(write)),
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=starting.dying_with_us(),
    )
    os.close(write)
    with _ended(process), open(read, encoding="utf-8") as pipe:
        said = pipe.readline().strip()
        if not said:
            code = process.wait()
            signals.check()
            print(_read(output), file=sys.stderr)
            cannot_start("`vfioemu incoming`", code)
        yield process, said


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Terminate a process at the end of the block, and wait for it."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
