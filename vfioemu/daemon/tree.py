# SPDX-License-Identifier: MIT
"""The tree that the preload library shows as /dev/vfio and parts of /sys: real files below the runtime directory.

Programs look at devices before they open one: a link's target, a file's contents, a directory's entries. Here these are
links, files and directories of our own, so that whatever system call looks at them gets a true answer, and all that the
library does is to put `ROOT` before the path. Three conventions between this module and csrc/preload/path*.c:

* a directory with the sticky bit is *merged*: what the real system has there stays visible beside ours. Any other is
  ours alone.
* a character device is a node with number 0:0 (the only one that anybody may make), or an empty file in its place. The
  library shows the number that the node's entry below /sys/class tells.
* links are relative, so that they lead to what they mean from wherever the tree is.
"""

import contextlib
import logging
import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from vfioemu.core.device import Device
from vfioemu.core.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.model import finish
from vfioemu.core.spec import IommuSpec
from vfioemu.daemon import sysfs
from vfioemu.daemon.runtime_dir import ROOT
from vfioemu.devices.registry import summary
from vfioemu.io.effects import Runner
from vfioemu.uapi import constants as c

log: Final = logging.getLogger(__name__)

_CONFIG_SIZE: Final = 4096
_WRITTEN: Final = 64
"""Bytes of a module parameter's file that are looked at; clients can make it as long as they want."""


class _Parameters(dict[str, int]):
    """Module parameters that programs may set by writing to a file: it is looked at whenever one is asked for."""

    def __init__(self, values: dict[str, int], refresh: Callable[[], None]) -> None:
        super().__init__(values)
        self._refresh = refresh

    def __getitem__(self, name: str) -> int:
        self._refresh()
        return super().__getitem__(name)


def _unsigned(written: bytes) -> int:
    """param_set_uint(): a number in any base that kstrtouint() knows; ValueError for anything else."""
    digits = written.decode("ascii").strip()
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return int(digits, 8 if octal else 0)


class Tree:
    """The tree of one machine, for as long as it is open.

    Args:
        machine: what it shows.
        directory: the runtime directory.
        runner: drives what asks models for their config space.
        shared: other users have access.
    """

    def __init__(self, machine: Machine, directory: Path, runner: Runner, *, shared: bool = False) -> None:
        self.root = directory.resolve() / ROOT
        self._machine = machine
        self._runner = runner
        self._shared = shared
        self._nodes = True
        self._groups: set[int] = set()
        self._types: set[str] = set()
        self._units: dict[IommuSpec, int] = {}
        self._devices: dict[str, tuple[int, list[str]]] = {}
        self._limit = b""

    def __enter__(self) -> Self:
        shutil.rmtree(self.root, ignore_errors=True)  # of a daemon that was killed
        mask = os.umask(0)
        try:
            limit = self._machine.parameters["dma_entry_limit"]
            self._make_all(sysfs.machine_entries(limit, shared=self._shared))
            self._limit = (self.root / sysfs.DMA_ENTRY_LIMIT).read_bytes()
            for device in self._machine.devices.values():
                self._add(device)
        finally:
            os.umask(mask)
        self._machine.parameters = _Parameters(self._machine.parameters, self.refresh)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    # --- module parameters ---

    def refresh(self) -> None:
        """Take over what a program has written to the file of a module parameter."""
        try:
            with (self.root / sysfs.DMA_ENTRY_LIMIT).open("rb") as file:
                written = file.read(_WRITTEN)
        except OSError:
            return
        if written == self._limit:
            return
        try:
            self._machine.set_parameter("dma_entry_limit", _unsigned(written))
        except ValueError:
            if written.strip():
                log.warning("dma_entry_limit: %r is no value for it", written[:40])
        self.show_parameters()

    def show_parameters(self) -> None:
        """Write the parameters' values to their files."""
        self._limit = f"{dict.__getitem__(self._machine.parameters, 'dma_entry_limit')}\n".encode()
        with contextlib.suppress(OSError):
            (self.root / sysfs.DMA_ENTRY_LIMIT).write_bytes(self._limit)

    # --- devices ---

    def add(self, device: Device) -> None:
        """A device is there: show it, and its group if that is new."""
        mask = os.umask(0)
        try:
            self._add(device)
        finally:
            os.umask(mask)

    def _add(self, device: Device) -> None:
        if not sysfs.can_show(device.name):
            log.warning("device %r cannot be shown in /sys: no such name is possible there", device.name)
            return
        group = device.group.spec
        if group.number not in self._groups:
            self._make_all(sysfs.group_entries(group, shared=self._shared))
            self._groups.add(group.number)
        unit = None if group.iommu is None else self._unit(group.iommu)
        if sysfs.bus_of(device.name) == "mdev" and device.spec.model not in self._types:
            description = summary(self._machine.models[device.spec.model])
            self._make_all(sysfs.type_entries(device.spec.model, description))
            self._types.add(device.spec.model)
        taken = {serial for serial, _ in self._devices.values()}
        serial = next(number for number in range(len(taken) + 1) if number not in taken)
        paths = self._make_all(sysfs.device_entries(device, serial, self._config(device), unit))
        self._devices[device.name] = serial, paths

    def remove(self, device: Device) -> None:
        """A device has gone, and perhaps its group."""
        _, paths = self._devices.pop(device.name, (0, []))
        number = device.group.number
        if number in self._groups and number not in self._machine.groups:
            self._groups.discard(number)
            paths[:0] = [path for path, _ in sysfs.group_entries(device.group.spec, shared=self._shared)]
        for path in reversed(paths):
            self._remove(path)

    def _unit(self, iommu: IommuSpec) -> int:
        unit = self._units.get(iommu)
        if unit is None:
            unit = self._units[iommu] = len(self._units)
            self._make_all(sysfs.unit_entries(unit, iommu))
        return unit

    def _config(self, device: Device) -> bytes:
        """The config space of a PCI function before it is opened; empty for what has none."""
        model = device.model
        if not model.info_flags & c.VFIO_DEVICE_FLAGS_PCI:
            return b""
        regions = model.regions()
        index = c.VFIO_PCI_CONFIG_REGION_INDEX
        region = regions[index] if index < len(regions) else None
        if region is None or not region.size:
            return b""
        size = min(region.size, _CONFIG_SIZE)
        try:
            effect = self._runner.start(lambda: finish(model.read_region(index, 0, size)))
        except IoctlError as error:
            log.warning("device %s: its config space cannot be shown: %s", device.symbol, error)
            return b""
        if effect is not None:  # it wants something of a caller, and there is none
            self._runner.steps.close()
            return b""
        return bytes(self._runner.result)

    # --- files ---

    def _make_all(self, entries: sysfs.Entries) -> list[str]:
        """Make what is not there yet; the paths, in the order in which they were made."""
        made = []
        for path, entry in entries:
            try:
                self._make(self.root / path, path, entry)
            except FileExistsError:
                if not isinstance(entry, sysfs.Directory):
                    log.warning("/%s is there already", path)
                continue
            made.append(path)
        return made

    def _make(self, where: Path, path: str, entry: sysfs.Entry) -> None:
        match entry:
            case sysfs.Directory(merged=merged):
                where.mkdir(0o755)
                if merged:
                    where.chmod(0o1755)
            case sysfs.File(content=content, mode=mode):
                fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
            case sysfs.Link(target=target):
                where.symlink_to(posixpath.relpath(f"/{target}", posixpath.dirname(f"/{path}")))
            case sysfs.Node(mode=mode):
                self._make_node(where, mode)

    def _make_node(self, where: Path, mode: int) -> None:
        """A device node 0:0 can be made without privileges (vfs_mknod(): a whiteout); else an empty file."""
        if self._nodes:
            try:
                os.mknod(where, stat.S_IFCHR | mode, 0)
            except FileExistsError:
                raise
            except OSError:
                self._nodes = False
            else:
                return
        os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))

    def _remove(self, path: str) -> None:
        where = self.root / path
        try:
            if stat.S_ISDIR(where.lstat().st_mode):
                where.rmdir()
            else:
                where.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.debug("/%s stays: %s", path, error.strerror)
