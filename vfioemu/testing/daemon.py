# SPDX-License-Identifier: MIT
"""A daemon as a process of its own, for tests and benchmarks: start it, look at it, end it.

Everything here is synchronous: what it waits for is the daemon's ready signal, its exit, or an answer on its control
socket.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from vfioemu.control_client import ControlSocket
from vfioemu.private import remove_tree
from vfioemu.starting import start_daemon
from vfioemu.wire.control import ControlError

_STOP: Final = 20.0


class DaemonProcess:
    """A running `vfioemu serve`.

    Attributes:
        pid: its process.
        directory: its runtime directory.
        socket_path: where clients connect.
        control_path: where it is commanded.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self._control: ControlSocket | None = None
        self.pid = process.pid
        self.directory = directory
        self.socket_path = directory / "vfio.sock"
        self.control_path = directory / "control.sock"

    def ask(self, command: str, **arguments: object) -> Any:
        """Return the answer to a command on the control socket.

        Raises:
            RuntimeError: the daemon refuses the command.
        """
        if self._control is None:
            self._control = ControlSocket(self.control_path, _STOP)
        try:
            return self._control.ask(command, **arguments)
        except ControlError as error:
            raise RuntimeError(f"{command}: {error.kind}: {error}") from None

    def held(self) -> dict[str, Any]:
        """Return what is held for clients at this moment, and the daemon's own numbers of fds and mappings."""
        stats = self.ask("stats")
        proc = Path(f"/proc/{self.pid}")
        return {
            **{
                name: stats[name]
                for name in ("sessions", "connections", "files", "locked_pages", "containers")
            },
            "pins": sum(device["pins"] for device in self.ask("list")["devices"]),
            "fds": len(list((proc / "fd").iterdir())),
            "windows": (proc / "maps").read_text().count("/memfd:"),
        }

    def pss(self) -> int:
        """Its proportional set size in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
        raise RuntimeError("smaps_rollup has no Pss")

    def log(self) -> str:
        """Return what the daemon has logged so far."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        """Forget its log."""
        self._log.close()

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM, then wait: its exit status."""
        if self._control is not None:
            self._control.close()
        self._process.terminate()
        try:
            return self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


@contextlib.contextmanager
def daemon_process(
    machine: str, *options: str, cpu: int | None = None, folder: Path | None = None
) -> Iterator[DaemonProcess]:
    """Run a daemon for as long as the block lasts.

    Args:
        machine: the text of a machine file.
        options: more options of `vfioemu serve`.
        cpu: the only CPU that it may run on.
        folder: where its runtime directory goes; by default where only we come to.

    Raises:
        RuntimeError: it did not start, or did not end with SIGTERM's status; the text has its log.
    """
    where = ["--private"] if folder is None else [f"--runtime-dir={folder}/run"]
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryFile() as file,
    ):  # no names that we could leave behind
        file.write(machine.encode())
        file.flush()
        process, path = start_daemon(
            ["serve", *where, f"--machine=/dev/fd/{file.fileno()}", *options],
            pass_fds=[file.fileno()],
            stdout=log,
            stderr=log,
        )
        daemon = DaemonProcess(process, Path(path).parent, log)
        try:
            if not path:
                raise RuntimeError(f"the daemon did not start:\n{daemon.log()}")
            if cpu is not None:
                os.sched_setaffinity(process.pid, {cpu})
            yield daemon
        finally:
            status = daemon.stop()
            if path:
                remove_tree(daemon.directory)  # of one that was killed
        if status != 128 + 15:
            raise RuntimeError(f"the daemon ended with status {status}:\n{daemon.log()}")


def machine_of(groups: Sequence[int], model: str = "oracle", options: str = 'variant = "basic"') -> str:
    """Return a machine file with one mediated device in each group, named after the group's number."""
    return "\n".join(
        f'[[group]]\nnumber = {number}\n[[group.device]]\nsymbol = "d{number}"\n'
        f'name = "{device_name(number)}"\nmodel = "{model}"\n[group.device.options]\n{options}\n'
        for number in groups
    )


def device_name(group: int) -> str:
    """Return the name that GET_DEVICE_FD expects in a group of `machine_of`."""
    return f"00000000-0000-4000-8000-{group:012d}"
