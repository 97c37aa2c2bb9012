# SPDX-License-Identifier: MIT
"""Traces while a daemon runs: what calls did, turned into events, and brought to whoever listens.

While nobody listens there is no tracer, and a call costs one look at `Server.tracer`. While somebody does, a call's effects are
recorded as they are performed (core/tap.py); nothing more is read from a client, and nothing waits for a listener: what does not
fit into its queue is lost, and counted.
"""

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from vfioemu.core.container import Container, ContainerFile
from vfioemu.core.device_file import DeviceFile
from vfioemu.core.effects import Effect, Steps
from vfioemu.core.file import File
from vfioemu.core.group import GroupFile
from vfioemu.core.machine import Machine
from vfioemu.core.regions import OFFSET_SHIFT
from vfioemu.core.tap import tapped
from vfioemu.io.base.process import name_of
from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.calls import STRING
from vfioemu.trace.decode import DEFAULT_LIMIT, Capture
from vfioemu.trace.filter import Filter
from vfioemu.trace.image import Image
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    from vfioemu.io.shim.connection import Connection
    from vfioemu.io.shim.server import Server
    from vfioemu.io.shim.session import Session
    from vfioemu.io.shim.tokens import Token

ROOM: Final = 16 << 20
"""Bytes of lines that wait for one listener."""
MAX_LIMIT: Final = 1 << 16
_U32: Final = 0xFFFFFFFF
_OPS: Final = {m.READ: "read", m.WRITE: "write", m.PREAD: "pread64", m.PWRITE: "pwrite64"}


class Sink:
    """One listener's queue.

    Args:
        encode: makes a line of an event.
        wanted: which events.
        limit: elements of arrays, and ranges of bitmaps.
        room: how many bytes may wait.
    """

    def __init__(
        self,
        encode: Callable[[e.AnyEvent], bytes],
        wanted: Filter,
        limit: int = DEFAULT_LIMIT,
        room: int = ROOM,
    ) -> None:
        self.limit = min(limit, MAX_LIMIT)
        self._encode = encode
        self._wanted = wanted
        self._room = room
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._closed = False
        self._news = trio.Event()

    def put(self, event: e.AnyEvent) -> None:
        """Take an event, if it is wanted and there is room."""
        if not self._wanted.wants(event):
            return
        if self._waiting >= self._room:
            self._lost += 1
        else:
            self._flush_lost(event.t)
            self._append(event)
        self._news.set()

    def _append(self, event: e.AnyEvent) -> None:
        line = self._encode(event)
        self._lines.append(line)
        self._waiting += len(line)

    def _flush_lost(self, now: float) -> None:
        if self._lost:
            count, self._lost = self._lost, 0
            self._append(e.Lost(t=now, count=count))

    def take_nowait(self) -> bytes:
        """All lines that wait."""
        self._flush_lost(_now())
        data = b"".join(self._lines)
        self._lines.clear()
        self._waiting = 0
        if not self._closed:
            self._news = trio.Event()
        return data

    async def take(self) -> bytes:
        """All lines that wait, at least one; nothing only after the end."""
        while True:
            await self._news.wait()
            closed = self._closed
            if (data := self.take_nowait()) or closed:
                return data

    def close(self) -> None:
        """This is the end: what waits can still be taken."""
        self._closed = True
        self._news.set()


class Record:
    """A call that is being traced."""

    __slots__ = ("_tracer", "args", "began", "capture", "file", "later", "pid", "t", "type")

    def __init__(self, tracer: "Tracer", pid: int, file: File, type: int, args: tuple[int, ...]) -> None:
        self._tracer = tracer
        self.pid = pid
        self.file = file
        self.type = type
        self.args = args
        # Of what is read and written by read(2) and write(2), only the beginning is shown.
        self.capture = Capture() if type == m.IOCTL else Capture(Image(STRING), Image(STRING))
        self.later: list[e.AnyEvent] = []
        self.t = _now()
        self.began = time.perf_counter()

    def starter(self, start: Callable[..., Effect | None]) -> Callable[..., Effect | None]:
        """What starts a handler in the place of `start`, and records it."""

        def tap(make: Callable[..., Steps[Any]], *args: object) -> Steps[Any]:
            return tapped(make(*args), self.capture, self)

        return lambda make, *args: start(tap, make, *args)

    def enters(self) -> None:
        """What devices do from now on is because of this call."""
        self._tracer.current = self

    def leaves(self) -> None:
        """It is not any more."""
        self._tracer.current = None


class Tracer:
    """Makes events of what a server does; it is a core `Observer` as well.

    Args:
        server: whose calls.
        machine: whose devices.

    Attributes:
        current: the call whose handler runs at this moment.
    """

    def __init__(self, server: "Server", machine: Machine) -> None:
        self._server = server
        self._machine = machine
        self._sinks: list[Sink] = []
        self._names: dict[int, str] = {}
        self._dropped: dict[int, int] = {}
        self._fds: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._limit = DEFAULT_LIMIT
        self.current: Record | None = None

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._sinks)

    def add(self, sink: Sink) -> None:
        """Somebody listens."""
        self._sinks.append(sink)
        self._limit = max(sink.limit for sink in self._sinks)
        self._server.tracer = self
        self._machine.observe(self)
        for session in self._server.sessions.values():
            for connection in session.channels[:1]:
                self.connected(session, connection)

    def remove(self, sink: Sink) -> None:
        """Somebody does not listen any more; with the last one, tracing ends."""
        self._sinks.remove(sink)
        if not self._sinks:
            self._server.tracer = None
            self._machine.observe(None)
            self._names.clear()
            self._dropped.clear()
            self._fds.clear()
            self._leaving.clear()

    def _put(self, event: e.AnyEvent) -> None:
        for sink in self._sinks:
            sink.put(event)

    # --- calls ---

    def begin(self, session: "Session", token: "Token", type: int, args: tuple[int, ...]) -> Record:
        """A call that a handler will answer."""
        self._dropped.pop(session.pid, None)
        if fd := args[3] >> 32:
            self._fds[token.serial] = fd - 1
        return Record(self, session.pid, token.file, type, args)

    def end(self, record: Record, result: int, why: str, given: "Mapping[int, Token] | None" = None) -> None:
        """It is answered, and the caller has got these fds."""
        for number, token in (given or {}).items():
            self._fds[token.serial] = number
        self._put(self._event(record, result, why))
        for event in record.later:
            self._put(event)

    def _event(self, record: Record, result: int, why: str) -> e.AnyEvent:
        a0, a1, a2, a3 = record.args
        file = record.file
        rest: dict[str, Any] = {
            "t": record.t,
            "pid": record.pid,
            "fd": (a3 >> 32) - 1 if a3 >> 32 else None,
            "file": file.label,
            "dur_us": int((time.perf_counter() - record.began) * 1e6),
        }
        if record.type == m.IOCTL:
            return calls.ioctl(
                file.kind, a0 & _U32, a1, record.capture, result, why, limit=self._limit, **rest
            )
        if record.type == m.MMAP:
            return e.Mmap(
                **calls.outcome(min(result, 0), why),
                **rest,
                kind=file.kind,
                size=a1,
                prot=a2 & _U32,
                shared=bool(a3 & 1),
                offset=a0,
                region=_region(file, a0),
            )
        offset = a2 if record.type in (m.PREAD, m.PWRITE) else None
        rest["region"] = None if offset is None else _region(file, offset)
        return calls.transfer(
            file.kind, _OPS[record.type], a0, a1, offset, record.capture, result, why, **rest
        )

    def opened(
        self,
        session: "Session",
        path: bytes | bytearray,
        file: File | None,
        error: int = 0,
        why: str = "",
    ) -> None:
        """open(2) is answered; which number the new fd gets is not known here."""
        self._put(
            e.Open(
                t=_now(),
                pid=session.pid,
                path=path[:STRING].decode("latin-1"),
                kind=None if file is None else file.kind,
                file="" if file is None else file.label,
                **calls.outcome(-error, why),
            )
        )

    # --- ends ---

    def container_of(self, file: File) -> Container | None:
        """The one whose mappings may go with a file; to count those of all would take too long for each file of thousands."""
        match file:
            case ContainerFile():
                return file.container
            case GroupFile():
                return file.group.container
            case DeviceFile():
                return file.device.group.container
            case _:
                return None

    def mappings(self, container: Container | None) -> int:
        """How many mappings a container has."""
        return 0 if container is None or container.iommu is None else len(container.iommu.map)

    def closed(self, token: "Token", mappings: int) -> None:
        """The last reference to a file is gone, and so many mappings with it."""
        pid = token.account.pid
        if mappings:
            self._dropped[pid] = self._dropped.get(pid, 0) + mappings
        self._put(
            e.Close(
                t=_now(),
                pid=pid,
                fd=self._fds.pop(token.serial, None),
                kind=token.file.kind,
                file=token.file.label,
                mappings=max(mappings, 0),
            )
        )
        if pid in self._leaving and not token.account.files:
            self._left(pid)

    def connected(self, session: "Session", connection: "Connection") -> None:
        """A client is there; its name is asked for now, since it cannot be when it has gone."""
        with contextlib.suppress(OSError):
            self._names[session.pid] = name_of(connection.sock, session.pid)

    async def disconnected(self, session: "Session") -> None:
        """A session has ended. Its process closes its files in the same moment if it is dead, and we wait for that."""
        while self._server.tokens.reap():
            pass
        pid = session.pid
        if any(other.pid == pid for other in self._server.sessions.values()):
            return
        self._leaving.add(pid)
        if not session.account.files or not _alive(pid):
            self._left(pid)

    def _left(self, pid: int) -> None:
        self._leaving.discard(pid)
        name = self._names.pop(pid, "")
        self._put(e.Disconnected(t=_now(), pid=pid, comm=name, mappings=self._dropped.pop(pid, 0)))

    def remark(self, pid: int, kind: str, text: str) -> None:
        """Something that no call shows."""
        self._happened(e.Remark(t=_now(), pid=pid, about=kind, text=text))

    # --- what devices do ---

    def _happened(self, event: e.AnyEvent) -> None:
        if self.current is not None:
            self.current.later.append(event)  # behind the call that made it happen
        else:
            self._put(event)

    def state(self, device: str, old: int, new: int) -> None:
        """A device made an arc."""
        self._happened(e.State(t=_now(), device=device, old=old, new=new))

    def dirtied(self, device: str, ranges: Iterable[tuple[int, int]], how: str) -> None:
        """A device wrote."""
        every = list(ranges)
        self._happened(
            e.Dirtied(t=_now(), device=device, count=len(every), ranges=every[: self._limit], how=how)
        )

    def interrupt(self, device: str, index: int, vector: int, heard: bool) -> None:
        """A device raised an interrupt."""
        self._happened(e.Interrupt(t=_now(), device=device, index=index, vector=vector, eventfd=heard))


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


def _now() -> float:
    return round(time.time(), 6)
