# SPDX-License-Identifier: MIT
"""A migration data fd: the stream of one session."""

import errno
from typing import Final

from vfioemu.core.base import dispatch
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import O_RDONLY, O_WRONLY, POLLIN, POLLOUT, PROT_WRITE, File, Mapped
from vfioemu.core.base.profile import DEFAULT, Profile
from vfioemu.core.base.userrange import clip, refuse_bad_range
from vfioemu.core.model.streams import DEFAULT_CHUNK, ResumingStream, SavingStream
from vfioemu.core.objects.migration import Session
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import PrecopyInfo


class DataFile(File):
    """A migration data fd: a stream file, readable (saving) or writable (resuming), without a position to seek."""

    kind = FdKind.DATA

    def __init__(self, session: Session, profile: Profile = DEFAULT) -> None:
        self.session = session
        self._profile = profile
        self.access = O_RDONLY if isinstance(session.stream, SavingStream) else O_WRONLY

    @property
    def profile(self) -> Profile:
        """The device's profile when it gave the fd out: while it is open, it stays in its container."""
        return self._profile

    @property
    def label(self) -> str:
        """The device's symbol."""
        return self.session.device_name

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """ENOTTY for anything but MIG_GET_PRECOPY_INFO."""
        return dispatch.ioctl(TABLE, self, caller, cmd, arg)

    def read(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """Read saved state: EBADF (a resuming fd), EFAULT, ENODEV, ENOMSG, what the model says; 0 is the end."""
        stream = self.session.stream
        if not isinstance(stream, SavingStream):
            raise IoctlError(errno.EBADF, "a resuming data fd is open for writing only")
        refuse_bad_range(addr, size)
        left = clip(size)
        done = 0
        # Two reads at a time would both get the piece that peek() shows. An arc waits for it as well: after it the session may have
        # ended, which is therefore asked under the lock.
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
        stream = self.session.stream
        if not isinstance(stream, ResumingStream):
            raise IoctlError(errno.EBADF, "a saving data fd is open for reading only")
        refuse_bad_range(addr, size)
        left = clip(size)
        done = 0
        # Two writes at a time would mix their pieces, as each waits for the caller's memory. An arc waits for it as well: the device
        # is given all that was written, or none of a write that comes after.
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
        yield from ()
        raise IoctlError(errno.ESPIPE, "a data fd is a stream")

    def pwrite(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """ESPIPE: stream_open() takes FMODE_PWRITE away."""
        yield from ()
        raise IoctlError(errno.ESPIPE, "a data fd is a stream")

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """EACCES for what the fd is not open for (do_mmap() reads a file in every mapping of it), or ENODEV."""
        yield from ()
        if isinstance(self.session.stream, ResumingStream) or (shared and prot & PROT_WRITE):
            raise IoctlError(errno.EACCES, f"prot {prot:#x}: a data fd is open for reading or writing alone")
        raise IoctlError(errno.ENODEV, "a data fd cannot be mapped")

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


def _get_precopy_info(file: DataFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_MIG_GET_PRECOPY_INFO: ENOTTY (a resuming fd), EFAULT, EINVAL (argsz, or not in pre-copy), ENODEV."""
    stream = file.session.stream
    if not isinstance(stream, SavingStream):
        raise IoctlError(errno.ENOTTY, f"device {file.label} is RESUMING: that has no pre-copy")
    info = PrecopyInfo.parse((yield from read_user(arg, PrecopyInfo.SIZE)))
    if info.argsz < PrecopyInfo.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {info.argsz} < {PrecopyInfo.SIZE}")
    # The arc out of pre-copy takes it: what is told was true while the device was still in it.
    yield from locked(file.session.lock)
    try:
        stream.before_info()
        file.session.refuse_ended()
        initial, dirty = stream.precopy_info()
        flags = info.flags if stream.returns_flags and not file.session.info_v2 else 0
        answer = PrecopyInfo(argsz=info.argsz, flags=flags, initial_bytes=initial, dirty_bytes=dirty)
        yield from write_user(arg, answer.build())
    finally:
        file.session.lock.release()
    return 0


TABLE: Final[dispatch.Table[DataFile]] = {
    c.VFIO_MIG_GET_PRECOPY_INFO: _get_precopy_info,
}
