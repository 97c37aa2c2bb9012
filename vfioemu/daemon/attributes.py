# SPDX-License-Identifier: MIT
"""Serve the live files of /sys (daemon/tree.py): what programs read from them, and write to them.

The preload library names files that it found in the tree, but any client can send any name: an unknown one is EIO, as for a
sysfs file without a show() or store().
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
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.core.machine import Machine
from vfioemu.daemon import sysfs
from vfioemu.daemon.function_files import SETTABLE, is_binary
from vfioemu.daemon.functions import Function, Functions
from vfioemu.daemon.tree import Tree
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.vfio_pci.driver import VfioPci
from vfioemu.printable import printable

_NUMBER: Final = re.compile(r"\+?(?:(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_ACTIONS: Final = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
"""Actions that may be written to `uevent`; no event is sent, as only the kernel can send one."""
_GROUP_TYPES: Final = ("identity", "DMA", "DMA-FQ", "auto")


class Mdevs(Protocol):
    """The part of MediatedDevices that files need."""

    def create(self, name: str, model: str) -> None:
        """Make a mediated device: IoctlError EEXIST, EUSERS, ENOMEM."""

    def delete(self, name: str) -> None:
        """Remove a mediated device: IoctlError ENODEV, EBUSY."""


class Attributes:
    """The live files of a machine.

    Args:
        machine: the machine.
        tree: has the files.
        functions: the machine's PCI functions.
        mdevs: the machine's mediated devices.
    """

    def __init__(self, machine: Machine, tree: Tree, functions: Functions, mdevs: Mdevs) -> None:
        self._machine = machine
        self._tree = tree
        self._functions = functions
        self._mdevs = mdevs
        self._types = {f"{sysfs.type_path(model)}/create": model for model in machine.models}

    # --- reading ---

    def read(self, uid: int, path: str, offset: int, size: int) -> Steps[bytes]:
        """Read at most `size` bytes of a file at `offset`.

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
        """Read the ROM, after a 1 was written to the file: pci_read_rom()."""
        if not function.rom:
            raise IoctlError(errno.EINVAL, "the ROM is disabled; write 1 to it first")
        model = function.device.model
        rom = (model.hardware.function.rom or b"") if isinstance(model, VfioPci) else b""
        if not rom:
            raise IoctlError(errno.EIO, "the function has no ROM")
        return rom[offset : offset + size]

    def _ports(self, function: Function, name: str, offset: int, size: int) -> int:
        """Return the index of an I/O BAR, of which `size` bytes are to be accessed: pci_resource_io(). EIO for memory, EINVAL."""
        digits = name.removeprefix("resource")
        model = function.device.model
        bar = (
            model.hardware.function.bars.get(int(digits))
            if digits.isdigit() and isinstance(model, VfioPci)
            else None
        )
        if bar is None or bar.kind != "io":
            raise IoctlError(errno.EIO, f"{name}: a memory BAR can only be mapped")
        if size not in (1, 2, 4) or offset + size > bar.size:
            raise IoctlError(
                errno.EINVAL, f"{name}: access of {size} bytes at {offset:#x}, BAR size {bar.size:#x}"
            )
        return int(digits)

    def _read_ports(self, function: Function, name: str, offset: int, size: int) -> Steps[bytes]:
        index = self._ports(function, name, offset, size)
        return (yield from finish(function.device.model.read_region(index, offset, size)))

    # --- mapping ---

    def mmap(self, uid: int, path: str, offset: int, size: int) -> Steps[Mapped]:
        """Map the pages of a memory BAR: pci_mmap_resource().

        Raises:
            IoctlError: EACCES; ENODEV for a file that cannot be mapped; EINVAL.
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
        if offset % PAGE_SIZE or offset + size > max(bar.size, PAGE_SIZE):
            raise IoctlError(errno.EINVAL, f"/{path}: {size:#x} bytes at {offset:#x} of {bar.size:#x}")
        mapped = yield from finish(model.hardware.map_bar(int(digits), offset, size, 3))
        if mapped is None:
            raise IoctlError(errno.EINVAL, f"/{path} cannot be mapped")
        whole = mapped if isinstance(mapped, Mapped) else Mapped(mapped, offset)
        hides = model.maps_registers(int(digits), offset, size)
        return whole._replace(hides=(function.device.symbol, int(digits))) if hides else whole

    # --- writing ---

    def write(self, uid: int, path: str, offset: int, data: bytes) -> Steps[int | None]:
        """Write to a file; return the bytes taken, None if the write concerns the real machine and not an emulated device.

        Raises:
            IoctlError: EACCES, and the kernel's errnos.
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
        if not data:  # sysfs_kf_write() does not call store()
            return 0
        if function is not None and name == "config":
            return (yield from self._write_config(function, offset, data))
        if function is not None and name.startswith("resource"):
            index = self._ports(function, name, offset, len(data))
            yield from finish(function.device.model.write_region(index, offset, data))
            return len(data)
        data = data[:PAGE_SIZE]
        # kernfs terminates the data with a NUL, so store() sees it up to the first NUL; some programs write one.
        text = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if name == "uevent":
            if text.partition(" ")[0].strip() not in _ACTIONS:
                raise IoctlError(
                    errno.EINVAL, f"uevent: {text.strip()!r} is not one of {', '.join(_ACTIONS)}"
                )
        elif function is not None:
            yield from self._write_function(function, path, name, text)
        elif directory.startswith(sysfs.PCI_BUS):
            if not self._write_bus(directory, name, text):
                return None
        else:
            self._write_other(path, directory, name, text)
        return len(data)

    def _write_config(self, function: Function, offset: int, data: bytes) -> Steps[int]:
        """Write to the writable bits of config space: pci_write_config(). EFBIG at or after its end (sysfs_kf_bin_write())."""
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
                raise IoctlError(errno.EINVAL, f"{name} must be one of {', '.join(values)}, not {value!r}")
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
                raise IoctlError(errno.EINVAL, f"reset must be 1, not {text.strip()!r}")
            yield from function.device.reset()
        else:
            raise IoctlError(errno.EIO, f"/{path} cannot be written")

    def _write_bus(self, directory: str, name: str, text: str) -> bool:
        """Write to a file of the bus or of a driver; return False if the address is not an emulated function's."""
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
                raise IoctlError(errno.EINVAL, f"type must be one of {', '.join(_GROUP_TYPES)}")
            raise IoctlError(errno.EBUSY, "devices of the group are bound to a driver")
        else:
            raise IoctlError(errno.EIO, f"/{path} cannot be written")

    def _create(self, text: str, model: str) -> None:
        """Make a mediated device: create_store(). EINVAL if the text is not a UUID."""
        value = text.removesuffix("\n")
        try:
            name = str(uuid.UUID(value))
        except ValueError:
            name = ""
        if name != value.lower():
            raise IoctlError(errno.EINVAL, f"{value!r} is not a UUID")
        self._mdevs.create(name, model)

    def _check(self, uid: int, path: str, right: int) -> int:
        """Check that the user may access the file; return its mode.

        Raises:
            IoctlError: EACCES; ENODEV if there is no such file.
        """
        if self._tree.content(path) is None:
            raise IoctlError(errno.ENODEV, f"/{path} does not exist")
        try:
            status = (self._tree.root / path).lstat()
        except OSError as error:
            raise IoctlError(errno.ENODEV, f"/{path} is gone") from error
        if uid not in (0, os.getuid()) and not status.st_mode & right:
            raise IoctlError(errno.EACCES, f"/{path} belongs to uid {status.st_uid}")
        return status.st_mode


def unsigned(text: str, bits: int = 64) -> int:
    """Parse a number as kstrtouint() and kstrtoul() do: decimal, 0x hexadecimal or 0 octal, optional + and newline.

    Args:
        text: what was written.
        bits: width of the number, 32 or 64.

    Raises:
        IoctlError: EINVAL if it is not a number, or needs more than 64 bits (pci-sysfs.c returns EINVAL for every error of
            kstrtoul()); ERANGE if it needs more than 32.
    """
    digits = text.removesuffix("\n")
    match = _NUMBER.fullmatch(digits)
    if match is None:
        raise IoctlError(errno.EINVAL, f"{printable(digits)!r} is not a number")
    kind = next(base for base, found in ((16, match[1]), (8, match[2]), (10, match[3])) if found is not None)
    value = int(digits, kind)
    if value >> bits:
        raise IoctlError(
            errno.EINVAL if bits == 64 else errno.ERANGE, f"{printable(digits)} does not fit in {bits} bits"
        )
    return value
