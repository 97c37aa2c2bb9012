# SPDX-License-Identifier: MIT
"""The tree that the preload library shows as /dev/vfio and parts of /sys: real files below the runtime directory.

Programs examine devices before they open one: the target of a link, the contents of a file, the entries of a directory. Here
these are real links, files and directories. So every system call that examines them gives a true answer, and the library only
has to put `ROOT` before the path. Conventions between this module and csrc/preload/path*.c:

* a directory with the sticky bit is *merged*: entries of the real system stay visible in it. Any other has ours only.
* a file with the sticky bit is *live*: the library asks the daemon (daemon/attributes.py) for its contents, and sends it what
  is written. With the set-group-ID bit programs cannot read it, although the owner's permission says so.
* a character device is a node with number 0:0 (the only one that any user may make), or in its place a socket or an empty file.
  The library shows the number from the node's entry below /sys/class.
* links are relative, so that they work wherever the tree is.
"""

import contextlib
import logging
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from vfioemu.core.base.effects import finish
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.device import Device
from vfioemu.daemon import function_files, real, sysfs
from vfioemu.daemon.addresses import Addresses, BarRange
from vfioemu.daemon.entries import Directory, Entries, Entry, File, Link, Node
from vfioemu.daemon.runtime_dir import ROOT
from vfioemu.devices.pci.vfio_pci.driver import VfioPci
from vfioemu.devices.registry import summary
from vfioemu.io.driver import Driver
from vfioemu.private import remove_tree
from vfioemu.uapi import constants as c

MAX_MDEVS: Final = 1024
"""Limit of mediated devices."""

log: Final = logging.getLogger(__name__)

_DMAR: Final = re.compile(r"dmar(0|[1-9][0-9]{0,5})")
_CONFIG_SIZE: Final = 4096


@dataclass(slots=True)
class _Shown:
    """Entries of a device: the paths of its own, and those that its driver made."""

    paths: list[str]
    driver: list[str] = field(default_factory=list)
    serial: int = -1


@contextlib.contextmanager
def _umask() -> Iterator[None]:
    """Set the umask to 0, so that files get exactly the modes given."""
    mask = os.umask(0)
    try:
        yield
    finally:
        os.umask(mask)


class Tree:
    """The tree of one machine, while it is open.

    Args:
        machine: the machine that it shows.
        directory: the runtime directory.
        driver: runs models' reads of config space.
        shared: other users have access.
    """

    def __init__(self, machine: Machine, directory: Path, driver: Driver, *, shared: bool = False) -> None:
        self.root = directory.resolve() / ROOT
        self._machine = machine
        self._driver = driver
        self._shared = shared
        self._nodes = [stat.S_IFCHR, stat.S_IFSOCK]
        self._addresses = Addresses()
        self._members: dict[int, set[str]] = {}
        self._bound: dict[int, set[str]] = {}
        self._units: dict[IommuSpec, int] = {}
        self._shown: dict[str, _Shown] = {}
        self._live: dict[str, bytes] = {}
        self._stale: set[str] = set()

    def __enter__(self) -> Self:
        remove_tree(self.root)  # may be left by a daemon that was killed
        try:
            self._make_root()
        except BaseException:
            remove_tree(self.root)
            raise
        return self

    def _make_root(self) -> None:
        with _umask():
            limit = self._machine.parameters["dma_entry_limit"]
            self._make_all(sysfs.machine_entries(limit, real.names(real.BUS / "drivers")))
            for model in sorted(self._machine.models):
                description = summary(self._machine.models[model])
                self._make_all(sysfs.type_entries(model, description, MAX_MDEVS))
        self._tell_of_hidden_groups()
        for device in self._machine.devices.values():
            self.add(device)

    def __exit__(self, *_: object) -> None:
        remove_tree(self.root)

    def _tell_of_hidden_groups(self) -> None:
        """Warn of groups that the user gave the number of a real one; default numbers avoid these."""
        numbers = {device.group.number for device in self._machine.devices.values()}
        if hidden := sorted(numbers & real.groups()):
            log.warning(
                "%s %s: this machine has %s of its own, which programs do not see",
                "group" if len(hidden) == 1 else "groups",
                ", ".join(map(str, hidden)),
                "a group of that number" if len(hidden) == 1 else "groups of these numbers",
            )

    # --- changes of files ---

    def show_parameters(self) -> None:
        """Write the values of the parameters to their files."""
        self.write(sysfs.DMA_ENTRY_LIMIT, f"{self._machine.parameters['dma_entry_limit']}\n".encode())

    def show_available(self, count: int) -> None:
        """Write how many more mediated devices of each type can be made."""
        for model in self._machine.models:
            path = f"{sysfs.type_path(model)}/available_instances"
            self.write(path, sysfs.available(count).encode())

    def content(self, path: str) -> bytes | None:
        """Return the contents of a live file; None if there is none of that name."""
        return self._live.get(path)

    def restore(self, path: str) -> None:
        """Write a live file again; libc may have written into it in a way that the library cannot intercept."""
        if path in self._live:
            self.write(path, self._live[path])

    def write(self, path: str, content: bytes) -> None:
        """Replace the contents of a file; a concurrent reader sees at least the old length.

        The daemon answers reads from its own copy. So a file that cannot be written (ENOSPC, EMFILE) does not fail the operation:
        programs that read it directly see the old contents, and a warning is logged once.
        """
        if path in self._live:
            self._live[path] = content
        try:
            fd = _open_to_write(self.root / path)
            try:
                os.pwrite(fd, content, 0)
                os.ftruncate(fd, len(content))
            finally:
                os.close(fd)
        except OSError as error:
            if path not in self._stale:
                self._stale.add(path)
                log.warning("/%s keeps its old contents: %s", path, error.strerror)
        else:
            self._stale.discard(path)

    # --- devices ---

    def add(self, device: Device, *, bound: bool = True) -> None:
        """Show a new device, and its group if that is new.

        Raises:
            OSError: a file cannot be made (ENOSPC, EMFILE); nothing of the device is shown then.
        """
        if not sysfs.can_show(device.name):
            log.warning("device %r cannot be shown in /sys: the name is not possible there", device.name)
            return
        try:
            self._add(device, bound=bound)
            if bound:
                self.bind(device)
        except BaseException:
            self.remove(device)
            raise

    def _add(self, device: Device, *, bound: bool) -> None:
        group = device.group.spec
        with _umask():
            members = self._members.setdefault(group.number, set())
            if not members:
                self._make_all(sysfs.group_entries(group))
            members.add(device.name)
            shown = self._shown[device.name] = _Shown([])
            if sysfs.bus_of(device.name) == "pci" and real.has(device.name):
                log.warning(
                    "device %s: this machine has a PCI device %s of its own, which stays what /sys shows",
                    device.symbol,
                    device.name,
                )
            else:
                unit = None if group.iommu is None else self._unit(group.iommu)
                config = self.config(device)
                placed = self._place(device, config)
                config = self.config(device) if placed else config
                entries = sysfs.device_entries(device, config, placed, unit, bound=bound)
                shown.paths = self._make_all(entries)

    def bind(self, device: Device) -> None:
        """Show that a vfio driver has the device, with the group's node if that is new.

        Raises:
            OSError: a file cannot be made (ENOSPC, EMFILE); nothing of the driver is shown then.
        """
        shown = self._shown.get(device.name)
        if shown is None or shown.driver:
            return
        try:
            self._bind(device, shown)
        except BaseException:
            self.unbind(device)
            raise

    def _bind(self, device: Device, shown: _Shown) -> None:
        number = device.group.number
        with _umask():
            bound = self._bound.setdefault(number, set())
            if not bound:
                self._make_all(sysfs.node_entries(device.group.spec, shared=self._shared))
            bound.add(device.name)
            taken = {other.serial for other in self._shown.values()}
            shown.serial = next(serial for serial in range(len(taken) + 1) if serial not in taken)
            if shown.paths:
                self._place(device, self.config(device))
                shown.driver = self._make_all(sysfs.driver_entries(device, shown.serial))
                self._show_driver(device, bound=True)

    def unbind(self, device: Device) -> None:
        """Show that no driver has the device; the device and its group stay, the node goes with the last bound device."""
        shown = self._shown.get(device.name)
        if shown is None or shown.serial < 0:
            return
        self._remove_all(shown.driver)
        shown.driver, shown.serial = [], -1
        number = device.group.number
        bound = self._bound.get(number, set())
        bound.discard(device.name)
        if not bound:
            self._bound.pop(number, None)
            self._remove_all([path for path, _ in sysfs.node_entries(device.group.spec, shared=self._shared)])
        if shown.paths:
            self._show_driver(device, bound=False)

    def remove(self, device: Device) -> None:
        """Remove a device's entries, and those of its group if it was the last member."""
        self.unbind(device)
        shown = self._shown.pop(device.name, _Shown([]))
        number = device.group.number
        members = self._members.get(number, set())
        members.discard(device.name)
        self._remove_all(shown.paths)
        if not members:
            self._members.pop(number, None)
            self._remove_all([path for path, _ in sysfs.group_entries(device.group.spec)])

    def placed(self, name: str) -> bool:
        """Return True if the device has entries in the tree."""
        shown = self._shown.get(name)
        return shown is not None and bool(shown.paths)

    def _show_driver(self, device: Device, *, bound: bool) -> None:
        if sysfs.bus_of(device.name) != "pci":
            return
        path = sysfs.device_path(device)
        self.write(f"{path}/enable", b"1\n" if bound else b"0\n")
        self.write(f"{path}/uevent", function_files.uevent(device, self.config(device), bound=bound).content)

    def _place(self, device: Device, config: bytes) -> dict[int, BarRange]:
        """Choose addresses for the function's BARs that no other function has, and write them to its registers."""
        if sysfs.bus_of(device.name) != "pci":
            return {}
        wanted = function_files.bar_ranges(device, config)
        wide = function_files.wide(wanted)
        placed = self._addresses.place(device.name, wanted, wide=wide)
        if isinstance(device.model, VfioPci):
            for index, bar in placed.items():
                if bar.start != wanted[index].start:
                    device.model.hardware.config.move(index, bar.start, wide=index in wide)
        return placed

    def _unit(self, iommu: IommuSpec) -> int:
        unit = self._units.get(iommu)
        if unit is None:
            taken = {
                *self._units.values(),
                *(int(name[4:]) for name in real.names(Path("/sys/class/iommu")) if _DMAR.fullmatch(name)),
            }
            unit = next(n for n in range(len(taken) + 1) if n not in taken)
            self._make_all(sysfs.unit_entries(unit, iommu))
            self._units[iommu] = unit
        return unit

    def config(self, device: Device) -> bytes:
        """Return the config space of a PCI function, as in hardware; empty if there is none."""
        model = device.model
        if isinstance(model, VfioPci):
            return bytes(model.hardware.config.data)
        if not model.info_flags & c.VFIO_DEVICE_FLAGS_PCI:
            return b""
        regions = model.regions()
        index = c.VFIO_PCI_CONFIG_REGION_INDEX
        region = regions[index] if index < len(regions) else None
        if region is None or not region.size:
            return b""
        size = min(region.size, _CONFIG_SIZE)
        try:
            effect = self._driver.start(lambda: finish(model.read_region(index, 0, size)))
        except IoctlError as error:
            log.warning("device %s: its config space cannot be shown: %s", device.symbol, error)
            return b""
        if effect is not None:  # the model needs memory or fds of a caller, and there is none
            self._driver.steps.close()
            return b""
        return bytes(self._driver.result)

    # --- files ---

    def _make_all(self, entries: Entries) -> list[str]:
        """Make the entries that do not exist yet; return their paths in order of creation.

        Raises:
            OSError: an entry cannot be made; those made before it are removed.
        """
        made: list[str] = []
        try:
            for path, entry in entries:
                try:
                    self._make(self.root / path, path, entry)
                except FileExistsError:
                    if not isinstance(entry, Directory):
                        log.warning("/%s exists already", path)
                    continue
                made.append(path)
                if isinstance(entry, File) and entry.live:
                    self._live[path] = entry.content
        except BaseException:
            self._remove_all(made)
            raise
        return made

    def _make(self, where: Path, path: str, entry: Entry) -> None:
        match entry:
            case Directory(merged=merged):
                where.mkdir(0o755)
                if merged:
                    where.chmod(0o1755)
            case File(content=content, mode=mode, live=live, size=size):
                rights = mode
                if live:  # mark it as live, and as unreadable for programs if it is
                    rights |= stat.S_ISVTX if mode & 0o444 else stat.S_ISVTX | stat.S_ISGID | 0o400
                fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
                try:
                    with os.fdopen(fd, "wb") as file:
                        os.fchmod(fd, rights)
                        file.write(content)
                        if size is not None:
                            file.truncate(size)
                except OSError:
                    where.unlink()
                    raise
            case Link(target=target):
                where.symlink_to(posixpath.relpath(f"/{target}", posixpath.dirname(f"/{path}")))
            case Node(mode=mode):
                self._make_node(where, mode)

    def _make_node(self, where: Path, mode: int) -> None:
        """Make a device node 0:0, which needs no privileges (vfs_mknod(): a whiteout); else a socket, or an empty file.

        Nobody can open a whiteout or a socket, whatever its mode. A plain file that others could write, they could fill; so it gets
        no write permission for them.
        """
        for kind in list(self._nodes):
            try:
                os.mknod(where, kind | mode, 0)
            except FileExistsError:
                raise
            except OSError:
                self._nodes.remove(kind)
            else:
                return
        if self._shared:
            mode &= ~0o022
        os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))

    def _remove_all(self, paths: list[str]) -> None:
        for path in reversed(paths):
            self._remove(path)

    def _remove(self, path: str) -> None:
        where = self.root / path
        self._live.pop(path, None)
        self._stale.discard(path)
        try:
            (self.root / sysfs.OWNERS / str(where.lstat().st_ino)).unlink(missing_ok=True)
            if stat.S_ISDIR(where.lstat().st_mode):
                where.rmdir()
            else:
                where.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.debug("/%s stays: %s", path, error.strerror)


def _open_to_write(file: Path) -> int:
    """Open a file of ours for writing, even if its mode, which is the kernel's, denies that to all but root."""
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(file, flags)
    except PermissionError:
        mode = stat.S_IMODE(file.lstat().st_mode)
        file.chmod(mode | stat.S_IWUSR)
        try:
            return os.open(file, flags)
        finally:
            file.chmod(mode)
