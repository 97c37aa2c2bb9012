# SPDX-License-Identifier: MIT
"""`vfioemu demo`: two daemons, and a guest that moves between them while devices write into its memory."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

import vfioemu.demo
from vfioemu import starting
from vfioemu.cli.errors import cannot_start
from vfioemu.cli.values import DURATION, RATE

FILES = Path(vfioemu.demo.__file__).parent
START_SECONDS = 30
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)


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
        _end_by_signals()
        a, b = (stack.enter_context(_daemon(trace and Path(f"{trace}.{side}"))) for side in ("a", "b"))
        print(f" daemon a: {a}\n daemon b: {b}", flush=True)
        uri = "tcp:127.0.0.1:0" if tcp else f"unix:{b.parent}/migration.sock"
        incoming, uri = stack.enter_context(_incoming(uri, b.parent))
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
        code = _migrate(
            starting.command(
                "migrate", uri, "--guest", FILES / "guest.toml", "--runtime-dir", a.parent, *limits
            )
        )
        if code:
            return code
        output, _ = incoming.communicate(timeout=START_SECONDS)
        print(" and what the destination says:")
        print(output.rstrip(), flush=True)
        return incoming.returncode


def _end_by_signals() -> None:
    """SIGTERM, and SIGHUP of a terminal that is closed, end the demo by way of its clean-up."""

    def end(number: int, _: object) -> None:
        for late in _ENDS:
            signal.signal(late, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)


def _migrate(line: Sequence[str]) -> int:
    """Run `migrate` in the foreground; its exit status. Ctrl-C is for it, and it cancels; we clean up behind it."""
    process = subprocess.Popen(line, preexec_fn=starting.dying_with_us())
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        signal.signal(signal.SIGINT, interrupt)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _daemon(trace: Path | None) -> Iterator[Path]:
    """A daemon as a process of its own; its socket, in a directory that goes with it."""
    arguments: list[str | Path] = ["-q", "serve", "--private", "--machine", FILES / "machine.toml"]
    arguments += [f"--trace={trace}"] if trace else []
    process, path = starting.start_daemon(
        arguments, process_group=0
    )  # Ctrl-C is for `migrate`, which has to find it alive
    with _ended(process):
        if not path:
            cannot_start("`vfioemu serve`", process.wait())
        yield Path(path)


@contextlib.contextmanager
def _incoming(uri: str, directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The destination; its process and where it listens."""
    read, write = os.pipe()
    where: list[str | Path] = ["--guest", FILES / "guest.toml", "--runtime-dir", directory]
    if uri.startswith("tcp:"):
        where.append("--insecure")
    process = subprocess.Popen(
        starting.command("incoming", uri, *where, "--ready-fd", str(write)),
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=starting.dying_with_us(),
    )
    os.close(write)
    with _ended(process), open(read, encoding="utf-8") as pipe:
        said = pipe.readline().strip()
        if not said:
            output, _ = process.communicate()
            sys.stderr.write(output)
            cannot_start("`vfioemu incoming`", process.returncode)
        yield process, said


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """A process for as long as the block lasts."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
