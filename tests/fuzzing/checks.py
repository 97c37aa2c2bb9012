# SPDX-License-Identifier: MIT
"""What holds whatever the input was: errnos of the registry, no foreign fds, and nothing left of dead processes."""

from collections import Counter
from typing import Final

from tests.fuzzing import model
from tests.fuzzing.client import Client, Layout
from tests.fuzzing.model import PAGE
from tests.fuzzing.world import DataFile, Handle, World
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import PROFILES, Profile
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import MemoryEventFd, Process, Result
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import FEATURES, lookup

HONEST: Final[Layout] = (("basic", False),)
"""The device of the client that does everything right; the last of every fuzzed world."""

_FILE_ERRNOS: Final = frozenset(
    {"EINVAL", "EFAULT", "EBADF", "ESPIPE", "ENODEV", "ENOMSG", "ENOMEM", "ENOTTY", "EAGAIN", "EIO"}
)
_MAP_DATA_ERRNOS: Final = frozenset({"EINVAL", "EACCES"})


def file_errnos(kind: FdKind, call: str) -> frozenset[str]:
    """What read, write, pread, pwrite and mmap (shared, to be written) may fail with.

    EIO comes from a BAR while memory is off (do_io_rw()). A data fd is open for reading or for writing alone, so do_mmap()
    refuses to map it before anybody asks whether it can be mapped.
    """
    return _MAP_DATA_ERRNOS if (kind, call) == (FdKind.DATA, "mmap") else _FILE_ERRNOS


def kind_of(process: Process, number: int) -> FdKind:
    """The kind of an fd of ours."""
    what = process.fds[number].what
    if not isinstance(what, File):
        raise TypeError("not an emulated file")
    return what.kind


def name_of(kind: FdKind, cmd: int) -> str:
    """An ioctl's name, for messages."""
    row = lookup(kind, cmd)
    return row.name if row is not None else f"{kind} ioctl {cmd:#x}"


def allowed_errnos(profile: Profile, kind: FdKind, cmd: int, flags: int) -> frozenset[str]:
    """What an ioctl may fail with; `flags` are the second word of its argument, which names a feature."""
    if cmd == c.VFIO_DEVICE_FEATURE and kind is FdKind.DEVICE:
        feature = FEATURES.get(flags & c.VFIO_DEVICE_FEATURE_MASK)
        return feature.errnos if feature is not None else frozenset({"EFAULT", "EINVAL", "ENOTTY"})
    return profile.errnos(kind, cmd)


class Checks:
    """The checks of one run in a world.

    Args:
        world: where; its last device is for the honest client alone.
        calls: counts what was answered with what.

    Attributes:
        exact: the model follows what happens. It cannot after an injected fault, or once calls have overlapped.
    """

    def __init__(self, world: World, calls: Counter[tuple[str, str]]) -> None:
        self.world = world
        self.profile = PROFILES[world.machine.spec.profile]
        self.calls = calls
        self.exact = True
        self._eventfds: list[MemoryEventFd] = []
        self._foreign: dict[Client, set[int]] = {}

    def count(self, what: str, result: Result) -> None:
        """Count an answer."""
        self.calls[what, result.err or "ok"] += 1

    def check_errno(self, kind: FdKind, cmd: int, flags: int, result: Result, also: str = "") -> None:
        """The answer is one of the registry's; `also` is one more that it may be."""
        if result.err is None:
            assert result.ret >= 0, f"{name_of(kind, cmd)}: {result.ret}"
            return
        allowed = allowed_errnos(self.profile, kind, cmd, flags)
        assert result.err in allowed or result.err == also, (
            f"{name_of(kind, cmd)}: {result.err} is none of {sorted(allowed)}"
        )

    def adopt(self, handle: Handle, new: set[int]) -> None:
        """Fds have come out of a call: only two calls do that."""
        for number in new:
            kind = kind_of(handle.client.process, number)
            if kind is FdKind.DATA:
                migration = handle.thing.migration if isinstance(handle.thing, model.Device) else None
                session = None if migration is None else migration.session
                self.world.opened(handle.client, Result(number), DataFile(session))
            else:
                assert kind is FdKind.DEVICE, f"a {kind} fd was given out"
                device = self.world.devices[self.world.number(handle)]
                self.world.opened(handle.client, Result(number), device)

    def check_fds(self) -> None:
        """Every client has the fds that it must have."""
        for client in self.world.clients:
            known = {handle.number for handle in self.world.handles if handle.client is client}
            open_ = set(client.process.fds) - self._foreign.get(client, set())
            assert open_ == known, f"open fds {sorted(open_)}, not {sorted(known)}"

    def add_foreign(self, client: Client) -> None:
        """Give a client an eventfd and /dev/null."""
        self.add_eventfd(client)
        self.know_foreign(client, client.process.null())

    def add_eventfd(self, client: Client) -> int:
        """Give a client an eventfd, the references to which are counted."""
        number = client.process.eventfd()
        self.know_foreign(client, number)
        what = client.process.fds[number].what
        if isinstance(what, MemoryEventFd):
            self._eventfds.append(what)
        return number

    def know_foreign(self, client: Client, number: int) -> None:
        """An fd is none of ours."""
        self._foreign.setdefault(client, set()).add(number)

    # --- the end ---

    def everybody_dies(self) -> None:
        """Nothing may be left of dead processes."""
        for client in self.world.clients:
            client.process.exit()
        self.world.handles.clear()
        left = {name: value for name, value in holdings(self.world.machine).items() if value}
        locked = sum(client.process.locked_pages for client in self.world.clients)
        references = sum(eventfd.references for eventfd in self._eventfds)
        assert not left, f"left behind: {left}"
        assert not locked, f"{locked} pages are still locked"
        assert not references, f"{references} references to eventfds are left"

    def honest_client(self) -> None:
        """What a client that does everything right must see, whatever happened before."""
        world, number = self.world, len(self.world.groups) - 1
        client = Client(world.machine, pid=3)
        container = world.open_container(client)
        group = world.open_group(client, number)
        assert group is not None
        world.set_container(group, container)
        world.set_iommu(container, c.VFIO_TYPE1v2_IOMMU)
        device = world.open_device(group, number)
        assert device is not None
        world.map(container, flags=3, vaddr=client.data, iova=0x10000, size=8 * PAGE)
        world.map(container, flags=1, vaddr=client.data + 8 * PAGE, iova=0x20000, size=4 * PAGE)
        world.track(container, on=True)
        world.pin(device, 0x11000, 2, 3)
        world.dma_write(device, 0x13FF0, 0x20, 0xA5)
        world.dma_read(device, 0x20000, 64)
        for dirty in (0b0001_1110, 0b0000_0110):
            bitmap = bytearray(8)
            world.get_bitmap(container, iova=0x10000, size=32 * PAGE, pgsize=PAGE, bitmap=bitmap)
            assert bitmap[0] == dirty, f"an honest client sees {bitmap.hex()}"
        world.unmap(container, flags=1, iova=0x10000, size=8 * PAGE, dirty=bytearray(8))
        world.notifications(device)
        world.track(container, on=False)
        data = client.process.memory.peek(client.data, len(client.contents))
        assert data == client.contents, "an honest client's memory is not as it must be"
        for handle in (device, group, container):
            world.close(handle)
        left = {name: value for name, value in holdings(world.machine).items() if value}
        assert not left, f"an honest client left {left}"
        assert not client.process.fds
