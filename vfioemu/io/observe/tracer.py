# SPDX-License-Identifier: MIT
"""Traces while a daemon runs: what calls did, turned into events, and brought to whoever listens.

While nobody listens there is no tracer, and a call costs one look at `Dispatcher.tracer`. While somebody does, a call's effects are
recorded as they are performed (core/files/tap.py); nothing more is read from a client, and nothing waits for a listener: what does not
fit into its queue is lost, and counted.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from vfioemu.core.base.effects import Effect, Steps
from vfioemu.core.base.file import File
from vfioemu.core.files.container import ContainerFile
from vfioemu.core.files.device import DeviceFile
from vfioemu.core.files.group import GroupFile
from vfioemu.core.files.tap import tapped
from vfioemu.core.machine import Machine
from vfioemu.core.memory.backend import Backend
from vfioemu.core.model.regions import OFFSET_SHIFT
from vfioemu.io.observe.sink import Sink, now
from vfioemu.io.transport import IOCTL, MMAP, PREAD, PWRITE, READ, WRITE, Call, Client
from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.calls import STRING
from vfioemu.trace.decode import DEFAULT_LIMIT, Capture
from vfioemu.trace.image import Image
from vfioemu.uapi.kinds import FdKind

_TRANSFERS: Final = {READ: "read", WRITE: "write", PREAD: "pread64", PWRITE: "pwrite64"}
"""What strace calls them."""


class Observed(Protocol):
    """What is observed: the dispatcher.

    Attributes:
        tracer: what it tells of its calls.
        clients: who is connected.
    """

    tracer: "Tracer | None"

    @property
    def clients(self) -> Iterable[Client]:
        """Whoever is connected; a process as often as it has sessions."""


class Record:
    """A call that is being traced. The call itself may be reused by the time that it has been answered, so it is copied."""

    __slots__ = ("_tracer", "args", "began", "capture", "fd", "file", "later", "op", "pid", "t")

    def __init__(self, tracer: "Tracer", call: Call) -> None:
        self._tracer = tracer
        self.pid = call.caller.pid
        self.file = call.file
        self.op = call.op
        self.args = call.args
        self.fd = call.fd
        # Of what is read and written by read(2) and write(2), only the beginning is shown.
        self.capture = Capture() if call.op == IOCTL else Capture(Image(STRING), Image(STRING))
        self.later: list[e.AnyEvent] = []
        self.t = now()
        self.began = time.perf_counter()

    def starter(self, start: Callable[..., Effect | None]) -> Callable[..., Effect | None]:
        """Return what starts a handler in the place of `start`, and records what it does."""

        def tap(make: Callable[..., Steps[Any]], *args: object) -> Steps[Any]:
            return tapped(make(*args), self.capture, self)

        return lambda make, *args: start(tap, make, *args)

    def enters(self) -> None:
        """Attribute what devices do from now on to this call."""
        self._tracer.current = self

    def leaves(self) -> None:
        """Attribute it to no call any more."""
        self._tracer.current = None


class Tracer:
    """Makes events of what a daemon does; it is a core `Observer` as well.

    Args:
        observed: whose calls.
        machine: whose devices.

    Attributes:
        current: the call whose handler runs at this moment.
    """

    def __init__(self, observed: Observed, machine: Machine) -> None:
        self._observed = observed
        self._machine = machine
        self._sinks: list[Sink] = []
        self._names: dict[int, str] = {}
        self._dropped: dict[int, int] = {}
        self._fds: dict[File, int] = {}
        self._leaving: set[int] = set()
        self._limit = DEFAULT_LIMIT
        self.current: Record | None = None

    @property
    def listeners(self) -> int:
        """How many listeners there are."""
        return len(self._sinks)

    def add(self, sink: Sink) -> None:
        """Begin to tell somebody."""
        self._sinks.append(sink)
        self._limit = max(sink.limit for sink in self._sinks)
        self._observed.tracer = self
        self._machine.observe(self)
        for client in self._observed.clients:
            self.connected(client)

    def remove(self, sink: Sink) -> None:
        """Tell somebody nothing more; with the last one, tracing ends."""
        self._sinks.remove(sink)
        if not self._sinks:
            self._observed.tracer = None
            self._machine.observe(None)
            self._names.clear()
            self._dropped.clear()
            self._fds.clear()
            self._leaving.clear()

    def _put(self, event: e.AnyEvent) -> None:
        for sink in self._sinks:
            sink.put(event)

    # --- calls ---

    def begin(self, call: Call) -> Record:
        """Note a call that a handler is about to answer."""
        self._dropped.pop(call.caller.pid, None)
        if call.fd >= 0:
            self._fds[call.file] = call.fd
        return Record(self, call)

    def end(self, record: Record, result: int, why: str, given: Mapping[int, File]) -> None:
        """Tell of a call that has been answered, and that has made these fds."""
        for number, file in given.items():
            self._fds[file] = number
        self._put(self._event(record, result, why))
        for event in record.later:
            self._put(event)

    def _event(self, record: Record, result: int, why: str) -> e.AnyEvent:
        file = record.file
        args = record.args
        rest: dict[str, Any] = {
            "t": record.t,
            "pid": record.pid,
            "fd": record.fd if record.fd >= 0 else None,
            "file": file.label,
            "dur_us": int((time.perf_counter() - record.began) * 1e6),
        }
        if record.op == IOCTL:
            cmd, arg = args
            return calls.ioctl(file.kind, cmd, arg, record.capture, result, why, limit=self._limit, **rest)
        if record.op == MMAP:
            offset, size, prot, shared = args
            return e.Mmap(
                **calls.outcome(min(result, 0), why),
                **rest,
                kind=file.kind,
                size=size,
                prot=prot,
                shared=bool(shared),
                offset=offset,
                region=_region(file, offset),
            )
        address, size, *at = args
        rest["region"] = _region(file, at[0]) if at else None
        return calls.transfer(
            file.kind,
            _TRANSFERS[record.op],
            address,
            size,
            at[0] if at else None,
            record.capture,
            result,
            why,
            **rest,
        )

    def opened(
        self, pid: int, path: bytes | bytearray, file: File | None, error: int = 0, why: str = ""
    ) -> None:
        """Tell of an open(2) that is answered; which number the new fd gets is not known here."""
        self._put(
            e.Open(
                t=now(),
                pid=pid,
                path=path[:STRING].decode("latin-1"),
                kind=None if file is None else file.kind,
                file="" if file is None else file.label,
                **calls.outcome(-error, why),
            )
        )

    # --- ends ---

    def mappings_with(self, file: File) -> Callable[[], int]:
        """Return what counts the mappings that may go with a file.

        Those of one backend: to count those of all would take too long for each of thousands of files. It is looked up
        before the file is released, since afterwards nothing leads there.
        """
        backend = _backend_of(file)
        return lambda: 0 if backend is None else backend.count_mappings()

    def closed(self, file: File, pid: int, files_left: int, mappings: int) -> None:
        """Tell that the last reference to a file is gone, and so many mappings with it.

        Args:
            file: which.
            pid: whose it was.
            files_left: how many emulated files that process still has.
            mappings: how many have gone.
        """
        if mappings:
            self._dropped[pid] = self._dropped.get(pid, 0) + mappings
        self._put(
            e.Close(
                t=now(),
                pid=pid,
                fd=self._fds.pop(file, None),
                kind=file.kind,
                file=file.label,
                mappings=max(mappings, 0),
            )
        )
        if pid in self._leaving and not files_left:
            self._left(pid)

    def connected(self, client: Client) -> None:
        """Note a client; its name is asked for now, since it cannot be when it has gone."""
        with contextlib.suppress(OSError):
            self._names[client.pid] = client.comm()

    def disconnected(self, client: Client) -> None:
        """Tell that a client has gone: now, or when its process has closed its files, which it does in this moment if it is dead."""
        pid = client.pid
        if any(other.pid == pid for other in self._observed.clients):
            return
        self._leaving.add(pid)
        if not client.files_open() or not _alive(pid):
            self._left(pid)

    def _left(self, pid: int) -> None:
        self._leaving.discard(pid)
        name = self._names.pop(pid, "")
        self._put(e.Disconnected(t=now(), pid=pid, comm=name, mappings=self._dropped.pop(pid, 0)))

    def remark(self, pid: int, kind: str, text: str) -> None:
        """Tell of something that no call shows."""
        self._happened(e.Remark(t=now(), pid=pid, about=kind, text=text))

    # --- what devices do ---

    def _happened(self, event: e.AnyEvent) -> None:
        if self.current is not None:
            self.current.later.append(event)  # behind the call that made it happen
        else:
            self._put(event)

    def state(self, device: str, old: int, new: int) -> None:
        """Tell of a device's change of migration state."""
        self._happened(e.State(t=now(), device=device, old=old, new=new))

    def dirtied(self, device: str, ranges: Iterable[tuple[int, int]], how: str) -> None:
        """Tell of pages that a device has written, as (iova, bytes)."""
        every = list(ranges)
        self._happened(
            e.Dirtied(t=now(), device=device, count=len(every), ranges=every[: self._limit], how=how)
        )

    def interrupt(self, device: str, index: int, vector: int, heard: bool) -> None:
        """Tell of an interrupt; `heard`: there is an eventfd for it."""
        self._happened(e.Interrupt(t=now(), device=device, index=index, vector=vector, eventfd=heard))


def _backend_of(file: File) -> Backend | None:
    match file:
        case ContainerFile():
            return file.container.iommu
        case GroupFile():
            return file.group.backend
        case DeviceFile():
            return file.device.group.backend
        case _:
            return None


def _region(file: File, offset: int) -> tuple[int, int] | None:
    if file.kind is not FdKind.DEVICE or offset >> 63:
        return None
    return offset >> OFFSET_SHIFT, offset & ((1 << OFFSET_SHIFT) - 1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True
