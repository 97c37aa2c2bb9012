# SPDX-License-Identifier: MIT
"""A private vfioemu: a daemon of one's own with some devices, and programs that run on it.

    with Instance() as vfioemu:
        engine = vfioemu.device("dma-engine", type=3)
        done = vfioemu.run(["./my-driver-test", "{bdf}"])
        assert done.returncode == 0
        assert vfioemu.trace.errors == []

The daemon starts when it is first needed, and ends, whatever happened, with the block.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from vfioemu.private import private_directory
from vfioemu.testing.daemon import DaemonProcess
from vfioemu.trace import events as e
from vfioemu.trace.text import Printer

RUN_SECONDS: Final = 300.0
"""How long a program may take by default."""


class Trace:
    """What the clients of an instance have done.

    Args:
        path: JSON lines, see protocol/trace-events.schema.json.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return [json.loads(line) for line in self._lines()]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The calls that were refused: `errno` and `why` say with what and why."""
        return [event for event in self.events if event.get("errno")]

    def text(self, last: int = 40) -> str:
        """The last events, one a line, as `vfioemu trace` prints them."""
        printer = Printer()
        return "\n".join(printer.line(e.decode(line)) for line in self._lines()[-last:])

    def _lines(self) -> list[bytes]:
        """Those that are complete: the daemon may be writing one."""
        try:
            return self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []


class Device:
    """A device of an instance.

    Args:
        instance: whose.
        position: among its devices.
        model: what it is.
    """

    def __init__(self, instance: "Instance", position: int, model: str) -> None:
        self._instance = instance
        self._position = position
        self.model = model

    @property
    def name(self) -> str:
        """Its PCI address or UUID, which GET_DEVICE_FD wants."""
        return str(self._entry["name"])

    @property
    def bdf(self) -> str:
        """Its PCI address.

        Raises:
            ValueError: it has none.
        """
        if ":" not in self.name:
            raise ValueError(f"{self.name} ({self.model}) is no PCI function")
        return self.name

    @property
    def group(self) -> int:
        """N of /dev/vfio/N."""
        return int(self._entry["group"])

    @property
    def sysfsdev(self) -> str:
        """Its folder in /sys, as programs see it that run here."""
        return str(self._entry["sysfsdev"])

    @property
    def is_open(self) -> bool:
        """Whether a program has it open now."""
        return bool(self._entry["open"])

    def inspect(self, what: str, **arguments: object) -> Any:
        """What the device tells its makers; RuntimeError if it has nothing of that name to tell."""
        return self._instance.ask("inspect", device=self.name, what=what, arguments=arguments)

    @property
    def _entry(self) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = self._instance.ask("list")["devices"][self._position]
        return entry


class Instance:
    """A daemon, its devices, and what ran on it.

    Args:
        trace_file: what the trace is appended to when the instance ends; several may have the same one.
        keep: leave that folder when the instance ends.

    Attributes:
        folder: the instance's own.
    """

    def __init__(self, *, trace_file: Path | None = None, keep: bool = False) -> None:
        self._stack = ExitStack()
        self.folder = self._stack.enter_context(private_directory("instance", keep=keep))
        self._trace_path = self.folder / "trace.jsonl"
        self.trace = Trace(self._trace_path)
        self._trace_file = trace_file
        self._wishes: list[str] = []
        self._daemon: DaemonProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def device(self, model: str, **options: object) -> Device:
        """Add a device; what its options mean, `vfioemu devices MODEL` says.

        Options: those of the model, and `bus`, `name` and `group`; ``pin_from`` is the option ``pin-from``.

        Raises:
            RuntimeError: the instance runs already.
        """
        if self._daemon is not None:
            raise RuntimeError("add all devices before the first program runs")
        words = [f"{key.replace('_', '-')}={_value(value)}" for key, value in options.items()]
        self._wishes.append(",".join([model, *words]))
        return Device(self, len(self._wishes) - 1, model)

    @property
    def socket_path(self) -> Path:
        """Where clients connect that speak the protocol themselves (protocol/wire.md)."""
        return self._running().socket_path

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        timeout: float = RUN_SECONDS,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        input: str | None = None,
        check: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program, unmodified, with the devices; ``{bdf}`` and the like in its arguments name them.

        Args:
            command: the program and its arguments; `vfioemu run --help` lists the names in braces.
            timeout: in seconds; subprocess.TimeoutExpired.
            env: its whole environment, to which the preload library is added.
            cwd: where it runs.
            input: its standard input.
            check: subprocess.CalledProcessError for an exit status that is not 0.
        """
        daemon = self._running()
        line = [
            sys.executable,
            "-m",
            "vfioemu.cli.main",
            "run",
            "--connect",
            os.fspath(daemon.directory),
            "--",
        ]
        return subprocess.run(
            [*line, *(os.fspath(word) for word in command)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=None if env is None else dict(env),
            cwd=cwd,
            input=input,
            check=check,
        )

    def ask(self, command: str, **arguments: object) -> Any:
        """The answer to a command on the control socket; RuntimeError if it is refused."""
        return self._running().ask(command, **arguments)

    def start(self) -> None:
        """Start the daemon now.

        Raises:
            RuntimeError: it does not start; the text has why.
        """
        self._running()

    def stop(self) -> None:
        """End the daemon, and remove its folder."""
        daemon, self._daemon = self._daemon, None
        try:
            if daemon is not None:
                try:
                    daemon.stop()
                finally:
                    self._hand_in()  # above all the calls of one that had to be killed
        finally:
            self._stack.close()

    def _hand_in(self) -> None:
        """Add the trace to what other instances have left in the file that was asked for."""
        if self._trace_file is not None:
            with self._trace_file.open("ab") as file:
                file.write(self._trace_path.read_bytes())

    def _running(self) -> DaemonProcess:
        if self._daemon is None:
            self._daemon = self._start()
        return self._daemon

    def _start(self) -> DaemonProcess:
        directory = self.folder / "run"
        directory.mkdir(0o700)
        ready, theirs = os.pipe()
        line = [sys.executable, "-m", "vfioemu.cli.main", "serve", "--runtime-dir", os.fspath(directory)]
        line += ["--memory=auto", "--exit-with-parent", "--ready-fd", str(theirs)]
        line += [f"--trace={self._trace_path}", "--trace-format=json"]
        line += [f"--device={wish}" for wish in self._wishes] or [f"--machine={self._empty_machine()}"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs]
            )
        os.close(theirs)
        daemon = DaemonProcess(process, directory)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.readline():
                process.wait()
                raise RuntimeError(f"the daemon did not start:\n{daemon.log()}")
        return daemon

    def _empty_machine(self) -> Path:
        path = self.folder / "machine.toml"
        path.write_text("", encoding="utf-8")
        return path


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    return str(value)


__all__ = ["Device", "Instance", "Trace"]
