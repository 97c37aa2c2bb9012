# SPDX-License-Identifier: MIT
"""Files of /sys that are answered by us: what programs read from live ones (daemon/tree.py), and write to them.

The preload library has the names of files that it found in the tree, but anybody can send any name: what is not known here
is EIO, as from a sysfs file without a show() or store().
"""

import errno
import os
import re
import stat
import uuid
from collections.abc import Callable
from typing import Final, Protocol

from vfioemu.core.base.effects import Steps, finish
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.machine import Machine
from vfioemu.daemon import sysfs
from vfioemu.daemon.function_files import SETTABLE, is_binary
from vfioemu.daemon.functions import Function, Functions
from vfioemu.daemon.tree import Tree
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.vfio_pci.driver import VfioPci
from vfioemu.printable import printable

_PAGE: Final = 4096
_NUMBER: Final = re.compile(r"\+?(?:(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_ACTIONS: Final = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
"""What an event can be asked for by `uevent`; nobody is sent any, as that is the kernel's to do."""
_GROUP_TYPES: Final = ("identity", "DMA", "DMA-FQ", "auto")


class Mdevs(Protocol):
    """What makes and removes mediated devices."""

    def create(self, name: str, model: str) -> None:
        """Make one: IoctlError EEXIST, EUSERS, ENOMEM."""

    def delete(self, name: str) -> None:
        """Remove one: IoctlError ENODEV, EBUSY."""


class Attributes:
    """The live files of a machine.

    Args:
        machine: whose.
        tree: where they are.
        functions: its PCI functions.
        mdevs: its mediated devices.
    """

    def __init__(self, machine: Machine, tree: Tree, functions: Functions, mdevs: Mdevs) -> None:
        self._machine = machine
        self._tree = tree
        self._functions = functions
        self._mdevs = mdevs
        self._types = {f"{sysfs.type_path(model)}/create": model for model in machine.models}

    # --- reading ---

    def read(self, uid: int, path: str, offset: int, size: int) -> Steps[bytes]:
        """What a file has at `offset`: at most `size` bytes.

        Raises:
            IoctlError: EACCES, EIO, EINVAL; ENODEV for a file whose device is gone.
        """
        path = path.lstrip("/")
        mode = self._check(uid, path, stat.S_IROTH)
        directory, _, name = path.rpartition("/")
        function = self._functions.at(directory)
        if mode & stat.S_ISGID:
            raise IoctlError(errno.EIO, f"/{path} cannot be read")
        if function is None or not is_binary(name):
            return (self._tree.content(path) or b"")[offset : offset + size]
        if name == "config":
            config = self._tree.config(function.device)
            self._tree.write(path, config)
            return config[offset : offset + size]
        if name == "rom":
            return self._read_rom(function, offset, size)
        return (yield from self._read_ports(function, name, offset, size))

    def _read_rom(self, function: Function, offset: int, size: int) -> bytes:
        """pci_read_rom(): after a 1 has been written to it."""
        if not function.rom:
            raise IoctlError(errno.EINVAL, "the ROM is read after a 1 has been written to it")
        model = function.device.model
        rom = (model.hardware.function.rom or b"") if isinstance(model, VfioPci) else b""
        if not rom:
            raise IoctlError(errno.EIO, "there is no ROM to be seen")
        return rom[offset : offset + size]

    def _ports(self, function: Function, name: str, offset: int, size: int) -> int:
        """pci_resource_io(): the index of an I/O BAR of which `size` bytes can be accessed; EIO of memory, EINVAL."""
        digits = name.removeprefix("resource")
        model = function.device.model
        bar = (
            model.hardware.function.bars.get(int(digits))
            if digits.isdigit() and isinstance(model, VfioPci)
            else None
        )
        if bar is None or bar.kind != "io":
            raise IoctlError(errno.EIO, f"{name}: memory can be mapped only")
        if size not in (1, 2, 4) or offset + size > bar.size:
            raise IoctlError(errno.EINVAL, f"{name}: {size} bytes at {offset:#x}")
        return int(digits)

    def _read_ports(self, function: Function, name: str, offset: int, size: int) -> Steps[bytes]:
        index = self._ports(function, name, offset, size)
        return (yield from finish(function.device.model.read_region(index, offset, size)))

    # --- mapping ---

    def mmap(self, uid: int, path: str, offset: int, size: int) -> Steps[Mapped]:
        """pci_mmap_resource(): the pages of a memory BAR.

        Raises:
            IoctlError: EACCES; ENODEV for what cannot be mapped, EINVAL.
        """
        path = path.lstrip("/")
        self._check(uid, path, stat.S_IROTH)
        directory, _, name = path.rpartition("/")
        function = self._functions.at(directory)
        digits = name.removeprefix("resource").removesuffix("_wc")
        if function is None or not name.startswith("resource") or not digits.isdigit():
            raise IoctlError(errno.ENODEV, f"/{path} cannot be mapped")
        model = function.device.model
        bar = model.hardware.function.bars.get(int(digits)) if isinstance(model, VfioPci) else None
        if not isinstance(model, VfioPci) or bar is None or bar.kind == "io":
            raise IoctlError(errno.ENODEV, f"/{path} cannot be mapped")
        if offset % _PAGE or offset + size > max(bar.size, _PAGE):
            raise IoctlError(errno.EINVAL, f"/{path}: {size:#x} bytes at {offset:#x} of {bar.size:#x}")
        mapped = yield from finish(model.hardware.map_bar(int(digits), offset, size, 3))
        if mapped is None:
            raise IoctlError(errno.EINVAL, f"/{path} cannot be mapped")
        whole = mapped if isinstance(mapped, Mapped) else Mapped(mapped, offset)
        hides = model.maps_registers(int(digits), offset, size)
        return whole._replace(hides=(function.device.symbol, int(digits))) if hides else whole

    # --- writing ---

    def write(self, uid: int, path: str, offset: int, data: bytes) -> Steps[int | None]:
        """Write to a file: how many bytes were taken; None if it is about nothing of ours, but about the machine.

        Raises:
            IoctlError: EACCES, and what the kernel says.
        """
        path = path.lstrip("/")
        self._check(uid, path, stat.S_IWOTH)
        try:
            return (yield from self._write(path, offset, data))
        finally:
            if not is_binary(path.rpartition("/")[2]):
                self._tree.restore(path)

    def _write(self, path: str, offset: int, data: bytes) -> Steps[int | None]:
        directory, _, name = path.rpartition("/")
        function = self._functions.at(directory) or self._functions.at(directory.removesuffix("/power"))
        if not data:  # sysfs_kf_write(): nobody is asked
            return 0
        if function is not None and name == "config":
            return (yield from self._write_config(function, offset, data))
        if function is not None and name.startswith("resource"):
            index = self._ports(function, name, offset, len(data))
            yield from finish(function.device.model.write_region(index, offset, data))
            return len(data)
        data = data[:_PAGE]
        # kernfs puts a NUL behind what is written, and that is where it ends: as some programs know, which write one.
        text = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if name == "uevent":
            if text.partition(" ")[0].strip() not in _ACTIONS:
                raise IoctlError(errno.EINVAL, f"uevent: {text.strip()!r} is none of {', '.join(_ACTIONS)}")
        elif function is not None:
            yield from self._write_function(function, path, name, text)
        elif directory.startswith(sysfs.PCI_BUS):
            if not self._write_bus(directory, name, text):
                return None
        else:
            self._write_other(path, directory, name, text)
        return len(data)

    def _write_config(self, function: Function, offset: int, data: bytes) -> Steps[int]:
        """pci_write_config(): what the hardware lets be written; EFBIG from the end on (sysfs_kf_bin_write())."""
        config = self._tree.config(function.device)
        if offset >= len(config):
            raise IoctlError(errno.EFBIG, f"config: {len(data)} bytes at {offset:#x} of {len(config):#x}")
        data = data[: len(config) - offset]
        model = function.device.model
        if isinstance(model, VfioPci):
            model.hardware.config.write(offset, len(data), int.from_bytes(data, "little"))
            if offset <= r.COMMAND + 1 or offset >= r.HEADER_SIZE:
                yield from model.command_written()
            self._tree.write(f"{function.path}/config", bytes(model.hardware.config.data))
        return len(data)

    def _write_function(self, function: Function, path: str, name: str, text: str) -> Steps[None]:
        values = SETTABLE.get(path.removeprefix(f"{function.path}/"))
        if values is not None:
            if (value := text.strip()) not in values:
                raise IoctlError(errno.EINVAL, f"{name} is one of {', '.join(values)}, not {value!r}")
            self._tree.write(path, f"{value}\n".encode())
        elif name == "driver_override":
            self._functions.set_override(function, text)
        elif name == "enable":
            self._functions.set_enabled(function, unsigned(text))
        elif name == "remove":
            if unsigned(text):
                self._functions.remove(function)
        elif name == "rescan":
            if unsigned(text):
                self._functions.rescan()
        elif name == "rom":
            function.rom = text.strip() != "0"
        elif name == "reset":
            if unsigned(text) != 1:
                raise IoctlError(errno.EINVAL, f"reset: 1 resets it, not {text.strip()!r}")
            yield from function.device.reset()
        else:
            raise IoctlError(errno.EIO, f"/{path} cannot be written")

    def _write_bus(self, directory: str, name: str, text: str) -> bool:
        """Files of the bus and its drivers; False if an address is none of ours."""
        value = text.removesuffix("\n")
        if directory == sysfs.PCI_BUS:
            if name == "drivers_probe":
                return self._functions.probe(value)
            if name == "rescan":
                if unsigned(text):
                    self._functions.rescan()
                return True
        driver = directory.removeprefix(f"{sysfs.DRIVERS}/")
        act = {"bind": self._functions.bind, "unbind": self._functions.unbind}.get(name)
        if act is not None:
            return act(driver, value)
        change: Callable[[str], None] | None = {
            "new_id": self._functions.new_id,
            "remove_id": self._functions.remove_id,
        }.get(name)
        if change is None:
            raise IoctlError(errno.EIO, f"/{directory}/{name} cannot be written")
        change(text)
        return True

    def _write_other(self, path: str, directory: str, name: str, text: str) -> None:
        if path == sysfs.DMA_ENTRY_LIMIT:
            try:
                self._machine.set_parameter("dma_entry_limit", unsigned(text, 32))
            except ValueError as error:
                raise IoctlError(errno.EINVAL, str(error)) from None
            self._tree.show_parameters()
        elif path in self._types:
            self._create(text, self._types[path])
        elif name == "remove" and directory.startswith(f"{sysfs.PARENT}/"):
            if unsigned(text):
                self._mdevs.delete(directory.rpartition("/")[2])
        elif name == "type" and directory.startswith("sys/kernel/iommu_groups/"):
            if text.strip() not in _GROUP_TYPES:
                raise IoctlError(errno.EINVAL, f"type is one of {', '.join(_GROUP_TYPES)}")
            raise IoctlError(errno.EBUSY, "a driver has the group's devices")
        else:
            raise IoctlError(errno.EIO, f"/{path} cannot be written")

    def _create(self, text: str, model: str) -> None:
        """create_store(): EINVAL for what is no UUID."""
        value = text.removesuffix("\n")
        try:
            name = str(uuid.UUID(value))
        except ValueError:
            name = ""
        if name != value.lower():
            raise IoctlError(errno.EINVAL, f"{value!r} is no UUID")
        self._mdevs.create(name, model)

    def _check(self, uid: int, path: str, right: int) -> int:
        """The file's mode, if that user may do it.

        Raises:
            IoctlError: EACCES; ENODEV without such a file.
        """
        if self._tree.content(path) is None:
            raise IoctlError(errno.ENODEV, f"/{path} is no such file")
        try:
            status = (self._tree.root / path).lstat()
        except OSError as error:
            raise IoctlError(errno.ENODEV, f"/{path} is gone") from error
        if uid not in (0, os.getuid()) and not status.st_mode & right:
            raise IoctlError(errno.EACCES, f"/{path} is uid {status.st_uid}'s")
        return status.st_mode


def unsigned(text: str, bits: int = 64) -> int:
    """kstrtouint() and kstrtoul(): a number in decimal, 0x hexadecimal or 0 octal, with a + or not, and one newline.

    Args:
        text: what was written.
        bits: of the number.

    Raises:
        IoctlError: EINVAL for what is no number, or beyond 64 bits: pci-sysfs.c makes EINVAL of all that kstrtoul() says;
            ERANGE beyond 32.
    """
    digits = text.removesuffix("\n")
    match = _NUMBER.fullmatch(digits)
    if match is None:
        raise IoctlError(errno.EINVAL, f"{printable(digits)!r} is no number")
    kind = next(base for base, found in ((16, match[1]), (8, match[2]), (10, match[3])) if found is not None)
    value = int(digits, kind)
    if value >> bits:
        raise IoctlError(
            errno.EINVAL if bits == 64 else errno.ERANGE, f"{printable(digits)} does not fit {bits} bits"
        )
    return value
