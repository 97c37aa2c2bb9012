# SPDX-License-Identifier: MIT
"""Migration v2: the state machine as a table, the loop over its arcs, and the data fds.

Kernel: vfio_mig_get_next_state() in drivers/vfio/vfio_main.c for the table and the skipping of states that a device
does not support; the loop is the one that every driver writes around it. What the arcs do is the model's
(`DeviceModel.arc`), and so is what the streams carry.

A session is one stream and the data fd that reads or writes it. It begins with an arc that gives an fd and ends, for
good, when the device leaves the states of that session: the fd then answers ENODEV, however long its owner keeps it.
"""

import errno
import os
from collections.abc import Callable, Generator, Mapping
from mmap import PROT_WRITE
from typing import TYPE_CHECKING, Final

from vfioemu.core import dispatch
from vfioemu.core.caller import Caller
from vfioemu.core.effects import Steps, locked, read_user, write_user
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import POLLIN, POLLOUT, File, Mapped
from vfioemu.core.locks import Lock
from vfioemu.core.userrange import clip, refuse_bad_range
from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import state_name
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import PrecopyInfo

if TYPE_CHECKING:
    from vfioemu.core.model import DeviceModel

ERROR: Final = c.VFIO_DEVICE_STATE_ERROR
STOP: Final = c.VFIO_DEVICE_STATE_STOP
RUNNING: Final = c.VFIO_DEVICE_STATE_RUNNING
STOP_COPY: Final = c.VFIO_DEVICE_STATE_STOP_COPY
RESUMING: Final = c.VFIO_DEVICE_STATE_RESUMING
RUNNING_P2P: Final = c.VFIO_DEVICE_STATE_RUNNING_P2P
PRE_COPY: Final = c.VFIO_DEVICE_STATE_PRE_COPY
PRE_COPY_P2P: Final = c.VFIO_DEVICE_STATE_PRE_COPY_P2P

_S: Final = c.VFIO_MIGRATION_STOP_COPY
_P: Final = c.VFIO_MIGRATION_P2P
_C: Final = c.VFIO_MIGRATION_PRE_COPY

STATE_FLAGS: Final[Mapping[int, int]] = {
    STOP: _S,
    RUNNING: _S,
    STOP_COPY: _S,
    RESUMING: _S,
    RUNNING_P2P: _S | _P,
    PRE_COPY: _S | _C,
    PRE_COPY_P2P: _S | _P | _C,
}
"""What a device must support to have a state (state_flags_table); ERROR is never a state to ask for."""

_TARGETS: Final = (STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P)
_NEXT_HOPS: Final = {
    STOP: (STOP, RUNNING_P2P, STOP_COPY, RESUMING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P),
    RUNNING: (RUNNING_P2P, RUNNING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, PRE_COPY, RUNNING_P2P),
    STOP_COPY: (STOP, STOP, STOP_COPY, STOP, STOP, ERROR, ERROR),
    RESUMING: (STOP, STOP, STOP, RESUMING, STOP, STOP, STOP),
    RUNNING_P2P: (STOP, RUNNING, STOP, STOP, RUNNING_P2P, RUNNING, PRE_COPY_P2P),
    PRE_COPY: (RUNNING, RUNNING, PRE_COPY_P2P, RUNNING, RUNNING, PRE_COPY, PRE_COPY_P2P),
    PRE_COPY_P2P: (RUNNING_P2P, RUNNING_P2P, STOP_COPY, RUNNING_P2P, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P),
}
NEXT_HOP: Final[Mapping[int, Mapping[int, int]]] = {
    current: dict(zip(_TARGETS, hops, strict=True)) for current, hops in _NEXT_HOPS.items()
}
"""vfio_from_fsm_table: the next state on the way from one to another, if the device supports all of them."""

SAVING_STATES: Final = frozenset({STOP_COPY, PRE_COPY, PRE_COPY_P2P})
RUNNING_STATES: Final = frozenset({RUNNING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P})
"""States in which the device runs."""
P2P_STATES: Final = frozenset({RUNNING_P2P, PRE_COPY_P2P})
"""Those of them in which it begins no DMA to other devices; all others may still reach it."""

DEFAULT_CHUNK: Final = 1 << 20
"""How much is copied in one go."""


class StateLost(IoctlError):
    """An arc failed, and the device can hold no valid state any more: it goes to ERROR, where only RESET helps."""


class SavingStream:
    """What a data fd of a saving session reads. Models subclass it.

    The stream belongs to one session from PRE_COPY or STOP to the end of STOP_COPY; the model switches what it offers
    when its arc into STOP_COPY is made.

    Attributes:
        chunk: how many bytes the driver copies to the caller at a time; what was copied stays consumed if a later chunk
            cannot be written. More are copied at once where that makes no difference.
        returns_flags: the driver leaves the flags of PRECOPY_INFO as the caller has them, until the caller promises to
            take them for an output. All drivers of the kernel do.
    """

    chunk: int = DEFAULT_CHUNK
    returns_flags: bool = True

    def peek(self, size: int) -> bytes:
        """Up to `size` bytes from the position, without moving it; fewer, or none at the end.

        Raises:
            IoctlError: ENOMSG when a device that is still in pre-copy has no more for now (also for size 0); EAGAIN;
                EIO.
        """
        raise NotImplementedError

    def advance(self, size: int) -> None:
        """Move the position over `size` bytes that have reached the caller."""
        raise NotImplementedError

    def precopy_info(self) -> tuple[int, int]:
        """(initial_bytes, dirty_bytes) that pre-copy can still give.

        Raises:
            IoctlError: EINVAL when the device is not in pre-copy; ENOTTY when it has none.
        """
        raise IoctlError(errno.ENOTTY, "the device has no pre-copy")

    def before_info(self) -> None:
        """What GET_PRECOPY_INFO checks before it looks whether the session has ended; nothing, usually."""

    def ready(self) -> bool:
        """Whether a read would give data (or the end) now; decides what poll() answers."""
        return True


class ResumingStream:
    """What a data fd of a resuming session writes. Models subclass it."""

    chunk: int = DEFAULT_CHUNK

    def before_write(self, size: int) -> None:
        """What write(2) checks before it looks whether the session has ended; nothing, usually."""

    def reserve(self, size: int) -> None:
        """Refuse `size` more bytes before they are copied from the caller.

        Raises:
            IoctlError: ENOMEM when it is more than the device can take.
        """

    def append(self, data: bytes) -> None:
        """Take the next bytes of the device's state. Whether they make sense is decided when RESUMING is left.

        Raises:
            IoctlError: EINVAL for what cannot be the beginning of a state.
        """
        raise NotImplementedError


class Session:
    """One stream, and whether it can still be used.

    The lock is held while bytes move, and while the device makes an arc: an arc waits for a read that is under way.
    """

    def __init__(
        self, stream: SavingStream | ResumingStream, device_name: str, *, info_v2: bool = False
    ) -> None:
        self.stream = stream
        self.device_name = device_name
        self.info_v2 = info_v2
        self.ended = False
        self.lock = Lock(f"migration stream of {device_name}")

    def refuse_ended(self) -> None:
        """ENODEV once the device has left the session's states, even if it has done so cleanly."""
        if self.ended:
            raise IoctlError(errno.ENODEV, f"device {self.device_name} has left the states of this fd")


class DataFile(File):
    """A migration data fd: a stream file, readable (saving) or writable (resuming), without a position to seek."""

    kind = FdKind.DATA

    def __init__(self, session: Session) -> None:
        self.session = session
        self.access = os.O_RDONLY if isinstance(session.stream, SavingStream) else os.O_WRONLY

    @property
    def label(self) -> str:
        """The device's symbol."""
        return self.session.device_name

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """ENOTTY for anything but MIG_GET_PRECOPY_INFO."""
        return dispatch.ioctl(self, caller, cmd, arg)

    def read(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """Read saved state: EBADF (a resuming fd), EFAULT, ENODEV, ENOMSG, what the model says; 0 is the end."""
        del caller
        stream = self.session.stream
        if not isinstance(stream, SavingStream):
            raise IoctlError(errno.EBADF, "a resuming data fd is open for writing only")
        refuse_bad_range(addr, size)
        left = clip(size)
        done = 0
        yield from locked(self.session.lock)
        try:
            self.session.refuse_ended()
            step = max(stream.chunk, DEFAULT_CHUNK)
            while data := stream.peek(min(left, step)):
                try:
                    yield from write_user(addr + done, data)
                except IoctlError as error:
                    if error.errno != errno.EFAULT or len(data) <= stream.chunk:
                        raise
                    step = stream.chunk  # it stops in a piece of the driver's: those before are consumed
                    continue
                stream.advance(len(data))
                done += len(data)
                left -= len(data)
                if not left:
                    break
        except IoctlError as error:
            if done and error.errno in (errno.ENOMSG, errno.EAGAIN):
                return done
            raise
        finally:
            self.session.lock.release()
        return done

    def write(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """Write state to load: EBADF (a saving fd), EFAULT, ENODEV, ENOMEM, what the model says."""
        del caller
        stream = self.session.stream
        if not isinstance(stream, ResumingStream):
            raise IoctlError(errno.EBADF, "a saving data fd is open for reading only")
        refuse_bad_range(addr, size)
        left = clip(size)
        done = 0
        yield from locked(self.session.lock)
        try:
            stream.before_write(left)
            self.session.refuse_ended()
            step = max(stream.chunk, DEFAULT_CHUNK)
            while left:
                n = min(left, step)
                try:
                    stream.reserve(n)
                    data = yield from read_user(addr + done, n)
                except IoctlError as error:
                    if error.errno not in (errno.EFAULT, errno.ENOMEM) or n <= stream.chunk:
                        raise
                    step = stream.chunk  # as above
                    continue
                stream.append(data)
                done += n
                left -= n
        finally:
            self.session.lock.release()
        return done

    def pread(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """ESPIPE: stream_open() takes FMODE_PREAD away."""
        del caller, addr, size, offset
        yield from ()
        raise IoctlError(errno.ESPIPE, "a data fd is a stream")

    def pwrite(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """ESPIPE: stream_open() takes FMODE_PWRITE away."""
        del caller, addr, size, offset
        yield from ()
        raise IoctlError(errno.ESPIPE, "a data fd is a stream")

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """EACCES for what the fd is not open for (do_mmap() reads a file in every mapping of it), or ENODEV."""
        del caller, offset, size
        yield from ()
        if isinstance(self.session.stream, ResumingStream) or (shared and prot & PROT_WRITE):
            raise IoctlError(errno.EACCES, f"prot {prot:#x}: a data fd is open for reading or writing alone")
        raise IoctlError(errno.ENODEV, "a data fd cannot be mapped")

    def get_precopy_info(self, caller: Caller, arg: int) -> Steps[int]:
        """VFIO_MIG_GET_PRECOPY_INFO: ENOTTY (a resuming fd), EFAULT, EINVAL (argsz, or not in pre-copy), ENODEV."""
        del caller
        stream = self.session.stream
        if not isinstance(stream, SavingStream):
            raise IoctlError(errno.ENOTTY, f"device {self.label} is RESUMING: that has no pre-copy")
        info = PrecopyInfo.parse((yield from read_user(arg, PrecopyInfo.SIZE)))
        if info.argsz < PrecopyInfo.SIZE:
            raise IoctlError(errno.EINVAL, f"argsz {info.argsz} < {PrecopyInfo.SIZE}")
        yield from locked(self.session.lock)
        try:
            stream.before_info()
            self.session.refuse_ended()
            initial, dirty = stream.precopy_info()
            flags = info.flags if stream.returns_flags and not self.session.info_v2 else 0
            answer = PrecopyInfo(argsz=info.argsz, flags=flags, initial_bytes=initial, dirty_bytes=dirty)
            yield from write_user(arg, answer.build())
        finally:
            self.session.lock.release()
        return 0

    def poll(self) -> int:
        """Readable when there is data or the end of it; a resuming fd is writable; an ended session is both."""
        stream = self.session.stream
        if self.session.ended:
            return POLLIN | POLLOUT
        if isinstance(stream, SavingStream):
            return (POLLIN | POLLOUT) if stream.ready() else 0
        return POLLIN | POLLOUT

    @property
    def poll_is_final(self) -> bool:
        """An ended session stays so."""
        return self.session.ended


def next_state(flags: int, current: int, target: int) -> int:
    """vfio_mig_get_next_state(): the next hop for a device with these VFIO_MIGRATION_ flags.

    Raises:
        IoctlError: EINVAL when there is no way, or the target is no state of this device.
    """
    for state in (current, target):
        needed = STATE_FLAGS.get(state)
        if needed is None or needed & ~flags:
            arc = f"{state_name(target)} from {state_name(current)}"
            raise IoctlError(errno.EINVAL, f"device_state {arc}: the device has no {state_name(state)}")
    hop = NEXT_HOP[current][target]
    while hop != ERROR and STATE_FLAGS[hop] & ~flags:
        hop = NEXT_HOP[hop][target]
    if hop == ERROR:
        raise IoctlError(
            errno.EINVAL, f"device_state {state_name(target)}: no way from {state_name(current)}"
        )
    return hop


class Migration:
    """The migration state of one device. Its user holds the device's lock over every call.

    Attributes:
        on_state: gets the old and the new state, whenever it changes.
        on_dma: called when the device may do DMA again.
    """

    def __init__(self, model: "DeviceModel", device_name: str, activity: Lock) -> None:
        self.state: int = RUNNING
        self.session: Session | None = None
        self.on_state: Callable[[int, int], None] | None = None
        self.on_dma: Callable[[], None] | None = None
        self._model = model
        self._device_name = device_name
        self._activity = activity
        self._info_v2 = False

    @property
    def runs(self) -> bool:
        """Whether the device is not stopped."""
        return self.state in RUNNING_STATES

    @property
    def may_dma(self) -> bool:
        """Whether it may do DMA: one that cannot tell what goes to other devices does none in the P2P states."""
        return self.runs and (self._model.tells_p2p or self.state not in P2P_STATES)

    def set_state(self, target: int) -> Steps[DataFile | None]:
        """Go to `target`, arc by arc; a file for the caller if the last arc begins a session.

        Nothing is checked when the device is there already, as in the drivers' loops. On failure the state is the
        last one that was reached.

        Raises:
            IoctlError: EINVAL, or the model's.
        """
        file = None
        while self.state != target:
            file = yield from self._arc(next_state(self._model.migration_flags, self.state, target))
        return file

    def _arc(self, target: int) -> Steps[DataFile | None]:
        """Make one arc. No DMA is under way meanwhile, and nobody reads or writes the session's stream."""
        session = self.session
        yield from locked(self._activity)
        try:
            if session is not None:
                yield from locked(session.lock)
            try:
                result = self._model.arc(self.state, target)
                stream = (yield from result) if isinstance(result, Generator) else result
            except StateLost:
                self._enter(ERROR)
                self._end(session)
                raise
            finally:
                if session is not None:
                    session.lock.release()
            if session is not None and not {self.state, target} <= SAVING_STATES:
                self._end(session)
            self._enter(target)
        finally:
            self._activity.release()
        if stream is None:
            return None
        self.session = Session(stream, self._device_name, info_v2=self._info_v2)
        return DataFile(self.session)

    def set_info_v2(self, on: bool) -> None:
        """Whether the flags of PRECOPY_INFO are an output: from now on, on the data fd that is open as well.

        Kernel: vfio_device.precopy_info_v2, set by its feature, cleared at the last close.
        """
        self._info_v2 = on
        if self.session is not None:
            self.session.info_v2 = on

    def reset(self) -> Steps[None]:
        """RUNNING again, from whatever state, and no session. The activity lock is held by the caller."""
        yield from self.end_session()
        self._enter(RUNNING)

    def end_session(self) -> Steps[None]:
        """No session, in whatever state. The activity lock is held by the caller."""
        session = self.session
        if session is not None:
            yield from locked(session.lock)
            session.lock.release()
            self._end(session)

    def lose(self) -> Steps[None]:
        """ERROR: what the device has done cannot be taken back. Its user holds the device's lock."""
        yield from locked(self._activity)
        try:
            yield from self.end_session()
            self._enter(ERROR)
        finally:
            self._activity.release()

    def _enter(self, state: int) -> None:
        could = self.may_dma
        old, self.state = self.state, state
        if self.on_dma is not None and self.may_dma and not could:
            self.on_dma()
        if self.on_state is not None and old != state:
            self.on_state(old, state)

    def _end(self, session: Session | None) -> None:
        if session is not None:
            session.ended = True
        self.session = None
