# SPDX-License-Identifier: MIT
"""A daemon, a QEMU under the shim, and the guest in it."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.system.interop.console import Console
from tests.system.interop.guestimage import GuestImage
from tests.system.interop.programs import Qemu
from tests.system.interop.qmp import Gone, Qmp, until
from vfioemu.testing.daemon import DaemonProcess, daemon_process

PATIENCE: Final = 120.0
"""Seconds for anything that takes a few on a machine of its own."""
_APPEND: Final = "console=ttyS0 noecho quiet loglevel=1 panic=-1 no_timer_check mitigations=off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of ours in a guest.

    Attributes:
        model: what the daemon emulates.
        group: number of its group; it is also in its name.
        slot: where the guest sees it.
        options: of the model.
        qemu: more properties of QEMU's vfio-pci.
        id: how QEMU calls it.
    """

    model: str
    group: int
    slot: int
    options: Mapping[str, object] = field(default_factory=dict)
    qemu: str = ""

    @property
    def id(self) -> str:
        return f"v{self.group}"

    @property
    def name(self) -> str:
        """What it is called in the machine file and in sysfs."""
        return f"00000000-0000-4000-8000-{self.group:012d}"

    @property
    def bdf(self) -> str:
        """Its address in the guest."""
        return f"0000:00:{self.slot:02x}.0"

    def properties(self, sysfsdev: str) -> str:
        """For QEMU's -device."""
        more = f",{self.qemu}" if self.qemu else ""
        return f"vfio-pci,id={self.id},addr={self.slot:#x},sysfsdev={sysfsdev}{more}"


def machine_file(devices: Sequence[Device]) -> str:
    """What a daemon emulates for a guest with these devices."""
    return "\n".join(
        f'[[group]]\nnumber = {device.group}\n[[group.device]]\nsymbol = "{device.id}"\n'
        f'name = "{device.name}"\nmodel = "{device.model}"\n[group.device.options]\n'
        + "".join(f"{name} = {_toml(value)}\n" for name, value in device.options.items())
        for device in devices
    )


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@dataclass(slots=True)
class Vm:
    """A QEMU that runs.

    Attributes:
        qemu: which one.
        process: what was started.
        pid: QEMU's own process.
        qmp: its monitor.
        console: the guest's shell.
        directory: its sockets, and its log.
    """

    qemu: Qemu
    process: trio.Process
    pid: int
    qmp: Qmp
    console: Console
    directory: Path

    def log(self) -> str:
        """What QEMU has said."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def environment(self, name: str) -> str:
        """A variable of QEMU's environment."""
        pairs = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        return dict(pair.decode().partition("=")[::2] for pair in pairs)[name]

    async def status(self) -> str:
        """Of the machine: running, paused, postmigrate..."""
        found: str = (await self.qmp("query-status"))["status"]
        return found

    async def physical(self, address: int, size: int) -> bytes:
        """Guest memory as QEMU has it."""
        file = self.directory / "memory"
        await self.qmp("pmemsave", val=address, size=size, filename=str(file))
        data = file.read_bytes()
        file.unlink()
        return data

    async def quit(self) -> int:
        """Have QEMU end: its status."""
        with contextlib.suppress(Gone):
            await self.qmp("quit")
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder whose name is short enough for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="vfi") as name:
        yield Path(name)


@contextlib.contextmanager
def daemon_of(devices: Sequence[Device]) -> Iterator[DaemonProcess]:
    """A daemon for a guest with these devices, as `vfioemu run` would start it."""
    with daemon_process(machine_file(devices), "--memory", "process_vm") as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def qemu_process(
    qemu: Qemu,
    guest: GuestImage,
    launcher: Sequence[str],
    devices: Sequence[str],
    *,
    options: Sequence[str] = (),
    machine: str = "pc",
    append: str = "",
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Vm]:
    """Run a QEMU for as long as the block lasts.

    Args:
        qemu: which.
        guest: what it boots, unless `options` have -incoming.
        launcher: what comes before QEMU's command line.
        devices: for -device.
        options: more options of QEMU.
        machine: QEMU's machine type.
        append: more for the kernel's command line.
        directory: where its sockets are.
        environment: more of it.
    """
    with contextlib.ExitStack() as stack:
        place = directory or stack.enter_context(workplace())
        arguments = [*launcher, *qemu.argv, "-nodefaults", "-display", "none", "-no-reboot"]
        arguments += ["-machine", machine, "-m", "256", "-smp", "1", "-pidfile", str(place / "pid")]
        arguments += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
        arguments += ["-append", f"{_APPEND} {append}".strip()]
        arguments += ["-chardev", f"socket,id=console,path={place}/console,server=on,wait=off"]
        arguments += ["-serial", "chardev:console", "-qmp", f"unix:{place}/qmp,server=on,wait=off"]
        for device in devices:
            arguments += ["-device", device]
        log = stack.enter_context((place / "log").open("wb"))
        process = await trio.lowlevel.open_process(
            [*arguments, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **qemu.environment, **(environment or {})},
        )
        try:
            await _there(process, place)
            async with Qmp.connect(place / "qmp") as qmp, Console.connect(place / "console") as console:
                yield Vm(qemu, process, int((place / "pid").read_text()), qmp, console, place)
        except BaseException as error:
            error.add_note(f"QEMU said: {(place / 'log').read_text(errors='replace')[-2000:] or 'nothing'}")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await _end(process, place)


async def _there(process: trio.Process, place: Path) -> None:
    async def look() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"QEMU ended with status {process.returncode}")
        return all((place / name).exists() for name in ("pid", "qmp", "console"))

    await until(look, bool, PATIENCE)


async def _end(process: trio.Process, place: Path) -> None:
    """QEMU is killed first: a launcher ends with it."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        os.kill(int((place / "pid").read_text()), 9)
    with trio.move_on_after(10):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
