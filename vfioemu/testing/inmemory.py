# SPDX-License-Identifier: MIT
"""An emulated kernel in this process, and clients of it without processes, sockets or privileges.

    kernel = machine(device("dma-engine", type=1))
    client = kernel.client()
    dma = client.open("dev0")
    memory = dma.container.map(0x100000, 0x10000)

Everything is synchronous and deterministic: a call is made, and it is done. What a call refuses is an OSError with the
kernel's errno, and the reason as its text. `MemoryClient.process` is what lies below: raw system calls with any
arguments (vfioemu/testing/process.py).
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import DEFAULT, Quirks
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.model.device import Factory
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.registry import default_bus, load_models, load_models_and_classes
from vfioemu.testing.handles import MemoryContainer, MemoryDevice
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Process
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c

__all__ = ["DeviceWish", "MemoryClient", "MemoryMachine", "device", "machine"]

IOMMU: Final = IommuSpec(reserved=((0xFEE0_0000, 0xFEEF_FFFF),))
"""An Intel IOMMU of 48 bits."""
_ARGUMENT: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """A device that a machine shall have.

    Attributes:
        model: one of `vfioemu devices`.
        iommu: what is in front of its group: True for an ordinary one, None for what the model is used to.
        name: for GET_DEVICE_FD; made up if empty.
        options: of the model.
    """

    model: str
    iommu: bool | IommuSpec | None = None
    name: str = ""
    options: Mapping[str, object] = field(default_factory=dict)


def device(
    model: str, *, iommu: bool | IommuSpec | None = None, name: str = "", **options: object
) -> DeviceWish:
    """Describe a device; an option `pin-from` is written `pin_from`."""
    return DeviceWish(model, iommu, name, {key.replace("_", "-"): value for key, value in options.items()})


def machine(
    *devices: str | DeviceWish,
    profile: str = DEFAULT.name,
    quirks: Quirks = "recorded",
    dma_entry_limit: int = 65535,
    iommu: IommuSpec = IOMMU,
) -> "MemoryMachine":
    """Make an emulated kernel with these devices, each in a group of its own: `dev0` in group 1, and so on.

    Args:
        devices: models by name, or what `device` describes.
        profile: the kernel release whose answers are given.
        quirks: "clean" for a kernel without the mistakes that were recorded.
        dma_entry_limit: how many mappings a container may have.
        iommu: what an ordinary IOMMU is here.

    Raises:
        ValueError: no such model, or not with these options.
    """
    models = load_models_and_classes()
    groups, specs = [], []
    for number, asked in enumerate(devices):
        wish = DeviceWish(asked) if isinstance(asked, str) else asked
        if wish.model not in models:
            raise ValueError(f"model {wish.model!r} is none of {', '.join(sorted(models))}")
        behind = _iommu_of(wish, models[wish.model], iommu)
        groups.append(GroupSpec(number=number + 1, iommu=behind))
        pci, mdev = f"0000:00:{number + 1:02x}.0", f"00000000-0000-4000-8000-{number + 1:012x}"
        made_up = mdev if behind is None else pci
        specs.append(
            DeviceSpec(
                symbol=f"dev{number}",
                name=wish.name or made_up,
                group=number + 1,
                model=wish.model,
                options=wish.options,
            )
        )
    spec = MachineSpec(
        groups=tuple(groups),
        devices=tuple(specs),
        profile=profile,
        quirks=quirks,
        memlock="client",
        dma_entry_limit=dma_entry_limit,
    )
    return MemoryMachine(spec)


def _iommu_of(wish: DeviceWish, factory: Factory, ordinary: IommuSpec) -> IommuSpec | None:
    if isinstance(wish.iommu, IommuSpec):
        return wish.iommu
    backed = default_bus(factory) == "pci" if wish.iommu is None else wish.iommu
    return ordinary if backed else None


class MemoryMachine:
    """An emulated kernel.

    Attributes:
        core: the machine itself.
        scheduler: runs calls; give it a `choose` to let the calls of several clients overlap.
    """

    def __init__(self, spec: MachineSpec) -> None:
        self.core = Machine(spec, load_models(tried={device.model for device in spec.devices}))
        self.scheduler = Scheduler()
        self._clients = 0
        self._now = 0.0
        self._kernel = Process(self.core, scheduler=self.scheduler, pid=0, kernel_thread=True)

    def __repr__(self) -> str:
        spec = self.core.spec
        groups = {group.number: group.iommu for group in spec.groups}
        devices = ", ".join(f"{found.model} behind {groups[found.group]}" for found in spec.devices)
        return f"<{spec.profile}, dma_entry_limit {spec.dma_entry_limit}: {devices}>"

    def client(self, *, memlock: int | None = None) -> "MemoryClient":
        """Start a new process; `memlock` is its RLIMIT_MEMLOCK in bytes, None for no limit."""
        self._clients += 1
        return MemoryClient(self, pid=self._clients, memlock=memlock)

    def work(self, seconds: float = 0.0) -> None:
        """Let time pass, and let each device do what it does by itself until there is nothing more to do by then."""
        self._now += seconds
        for found in self.core.devices.values():
            for _ in range(_MOST_TURNS):
                due = self.scheduler.call(found.work(self._now), self._kernel, "work")
                if due is None or due > self._now:
                    break

    def held(self) -> dict[str, int]:
        """Return what the kernel holds for clients now: containers, mappings, pins...; empty when nothing is left."""
        return {name: value for name, value in holdings(self.core).items() if value}


_MOST_TURNS: Final = 1000
"""How often a device that always has more to do is asked in one go."""


class MemoryClient:
    """A process that uses VFIO.

    Attributes:
        process: its memory, fds and system calls.
    """

    def __init__(self, kernel: MemoryMachine, pid: int, memlock: int | None) -> None:
        self.kernel = kernel
        options: dict[str, Any] = {} if memlock is None else {"memlock": memlock, "ipc_lock": False}
        self.process = Process(kernel.core, scheduler=kernel.scheduler, pid=pid, **options)
        self._argument = self.process.memory.allocate(_ARGUMENT)

    # --- memory ---

    def allocate(self, size: int, protection: str = "rw") -> int:
        """mmap() of anonymous memory, all zero; returns its address."""
        return self.process.memory.allocate(size, protection)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of its memory, whatever their protection."""
        return self.process.memory.peek(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Change bytes of its memory, whatever their protection."""
        self.process.memory.poke(address, data)

    # --- system calls ---

    def open_file(self, path: str) -> int:
        """open(2) of a device node; returns the fd."""
        result = self.process.open(path)
        if result.err is not None:
            raise OSError(_number(result.err), f"open of {path}")
        return result.ret

    def ioctl(self, fd: int, cmd: int, payload: bytes | int = b"", size: int = 0) -> tuple[int, bytes]:
        """ioctl(2) with a number, or with the address of a copy of `payload`.

        Args:
            fd: on which.
            cmd: what.
            payload: the argument.
            size: how many bytes of the argument to return, if more than it had.

        Returns:
            The result, and the argument as it is afterwards.

        Raises:
            OSError: the kernel's errno, and why.
        """
        if isinstance(payload, int):
            return self._call(fd, lambda file, caller: file.ioctl(caller, cmd, payload)), b""
        size = max(size, len(payload))
        if size > _ARGUMENT:
            raise ValueError(f"an argument of {size} bytes; at most {_ARGUMENT}")
        self.write(self._argument, payload.ljust(size, b"\0"))
        result = self._call(fd, lambda file, caller: file.ioctl(caller, cmd, self._argument))
        return result, self.read(self._argument, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """pread(2)."""
        address = self._room(size)
        done = self._call(fd, lambda file, caller: file.pread(caller, address, size, offset))
        return self.read(address, done)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """pwrite(2)."""
        address = self._room(len(data))
        self.write(address, data)
        return self._call(fd, lambda file, caller: file.pwrite(caller, address, len(data), offset))

    def read_file(self, fd: int, size: int) -> bytes:
        """read(2)."""
        address = self._room(size)
        done = self._call(fd, lambda file, caller: file.read(caller, address, size))
        return self.read(address, done)

    def write_file(self, fd: int, data: bytes) -> int:
        """write(2)."""
        address = self._room(len(data))
        self.write(address, data)
        return self._call(fd, lambda file, caller: file.write(caller, address, len(data)))

    def close(self, fd: int) -> None:
        """close(2); EBADF."""
        result = self.process.close(fd)
        if result.err is not None:
            raise OSError(_number(result.err), f"close of fd {fd}")

    def exit(self) -> None:
        """End the process: the kernel takes back everything."""
        self.process.exit()

    # --- VFIO ---

    def container(self) -> MemoryContainer:
        """Open a new container, without a group or an IOMMU type yet."""
        return MemoryContainer(self, self.open_file("/dev/vfio/vfio"))

    def open(
        self,
        symbol: str,
        container: MemoryContainer | None = None,
        iommu_type: int = c.VFIO_TYPE1v2_IOMMU,
    ) -> MemoryDevice:
        """Do all that it takes to get at a device: group, container, IOMMU type, device fd.

        Args:
            symbol: "dev0", ...
            container: where its group goes; a new one by default.
            iommu_type: set if the container has none yet.
        """
        spec = self.kernel.core.devices[symbol].spec
        container = container or self.container()
        group = self.open_file(f"/dev/vfio/{spec.group}")
        container.add(group, iommu_type)
        fd, _ = self.ioctl(group, c.VFIO_GROUP_GET_DEVICE_FD, spec.name.encode() + b"\0")
        return MemoryDevice(self, container, group, fd, spec.name)

    # --- inside ---

    def _room(self, size: int) -> int:
        return self._argument if size <= _ARGUMENT else self.allocate(size)

    def _call(self, fd: int, serve: Any) -> int:
        opened = self.process.fds.get(fd)
        if opened is None or not isinstance(opened.what, File):
            raise OSError(errno.EBADF, f"fd {fd} is not open")
        try:
            return self.kernel.scheduler.run(self.process.start_call(fd, serve))
        except IoctlError as error:
            raise OSError(error.errno, error.why) from None


def _number(name: str) -> int:
    return int(getattr(errno, name))
