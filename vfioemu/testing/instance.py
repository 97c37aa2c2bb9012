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
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self

from vfioemu import starting
from vfioemu.private import remove_tree
from vfioemu.starting import start_daemon
from vfioemu.testing.daemon import DaemonProcess
from vfioemu.trace import events as e
from vfioemu.trace.text import Printer

RUN_SECONDS: Final = 300.0
"""The default time limit of a program, in seconds."""


class Trace:
    """The recorded calls of an instance's clients.

    Attributes:
        file: JSON lines, see protocol/trace-events.schema.json; None while no daemon runs.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None

    @property
    def data(self) -> bytes:
        """All of it, as the daemon has written it so far."""
        if self.file is None:
            return b""
        return os.pread(self.file.fileno(), os.fstat(self.file.fileno()).st_size, 0)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return [json.loads(line) for line in self._lines()]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The calls that were refused: `errno` and `why` say with what and why."""
        return [event for event in self.events if event.get("errno")]

    def text(self, last: int = 40) -> str:
        """Return the last events, one a line, as `vfioemu trace` prints them."""
        printer = Printer()
        return "\n".join(printer.line(e.decode(line)) for line in self._lines()[-last:])

    def _lines(self) -> list[bytes]:
        """Those that are complete: the daemon may be writing one."""
        return self.data.split(b"\n")[:-1]


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
        """Tell whether a program has it open now."""
        return bool(self._entry["open"])

    def inspect(self, what: str, **arguments: object) -> Any:
        """Return the device's answer to a question of its makers; RuntimeError if it knows no such question."""
        return self._instance.ask("inspect", device=self.name, what=what, arguments=arguments)

    @property
    def _entry(self) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = self._instance.ask("list")["devices"][self._position]
        return entry


class Instance:
    """A daemon, its devices, and what ran on it.

    Args:
        trace_file: what the trace is appended to when the instance ends; several may have the same one.
        keep: leave a folder with the trace and the daemon's log when the instance ends.

    Attributes:
        kept: that folder, if there is one.
    """

    def __init__(self, *, trace_file: Path | None = None, keep: bool = False) -> None:
        self.kept = Path(tempfile.mkdtemp(prefix="vfioemu-")) if keep else None
        self.trace = Trace()
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
    def folder(self) -> Path:
        """The daemon's own, with its sockets; it goes with the daemon."""
        return self._running().directory

    @property
    def socket_path(self) -> Path:
        """The socket of clients that speak the protocol themselves (protocol/wire.md)."""
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
        return subprocess.run(
            starting.command("run", "--connect", daemon.directory, "--", *command),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=None if env is None else dict(env),
            cwd=cwd,
            input=input,
            check=check,
            preexec_fn=starting.dying_with_us(signal.SIGKILL),  # the program dies with `run`
        )

    def ask(self, command: str, **arguments: object) -> Any:
        """Return the answer to a command on the control socket; RuntimeError if it is refused."""
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
            if daemon is not None:
                remove_tree(daemon.directory)  # of one that was killed
                daemon.close()
            if self.trace.file is not None:
                self.trace.file.close()
                self.trace.file = None

    def _hand_in(self) -> None:
        """Add the trace to what other instances have left in the file that was asked for."""
        if self._trace_file is not None:
            with self._trace_file.open("ab") as file:
                file.write(self.trace.data)

    def _running(self) -> DaemonProcess:
        if self._daemon is None:
            self._daemon = self._start()
        return self._daemon

    def _start(self) -> DaemonProcess:
        self.trace.file, log = self._file("trace.jsonl"), self._file("log")
        trace = self.trace.file.fileno()
        process, path = start_daemon(
            [
                "serve",
                "--private",
                "--memory=auto",
                f"--trace=/dev/fd/{trace}",
                "--trace-format=json",
                *([f"--device={wish}" for wish in self._wishes] or [f"--machine={os.devnull}"]),
            ],
            pass_fds=[trace],
            stdout=log,
            stderr=log,
        )
        daemon = DaemonProcess(process, Path(path).parent, log)
        if not path:
            process.wait()
            why = daemon.log()
            daemon.close()
            raise RuntimeError(f"the daemon did not start:\n{why}")
        return daemon

    def _file(self, name: str) -> IO[bytes]:
        """Make a file for the daemon to write, and for us to read; without a name, if it is not to be kept."""
        return tempfile.TemporaryFile() if self.kept is None else (self.kept / name).open("w+b")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    return str(value)


__all__ = ["Device", "Instance", "Trace"]
