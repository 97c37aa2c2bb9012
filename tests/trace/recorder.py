# SPDX-License-Identifier: MIT
"""An in-memory process whose calls are traced, as the daemon traces those of its clients."""

from vfioemu.conformance import inprocess
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.files.tap import tapped
from vfioemu.testing.process import Process, Result, errno_name
from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.decode import Capture


class Recorder(Process):
    """A process that keeps an event of each ioctl and transfer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.events: list[e.AnyEvent] = []
        self.arguments: list[int] = []
        self._made = None

    def ioctl(self, fd, cmd, arg):
        self._made = lambda kind, capture, result, why, **rest: calls.ioctl(
            kind, cmd & 0xFFFFFFFF, arg, capture, result, why, **rest
        )
        return super().ioctl(fd, cmd, arg)

    def _transfer(self, op, addr, size, offset):
        self._made = lambda kind, capture, result, why, **rest: calls.transfer(
            kind, op, addr, size, offset, capture, result, why, **rest
        )

    def read(self, fd, addr, size):
        self._transfer("read", addr, size, None)
        return super().read(fd, addr, size)

    def write(self, fd, addr, size):
        self._transfer("write", addr, size, None)
        return super().write(fd, addr, size)

    def pread(self, fd, addr, size, offset):
        self._transfer("pread64", addr, size, offset)
        return super().pread(fd, addr, size, offset)

    def pwrite(self, fd, addr, size, offset):
        self._transfer("pwrite64", addr, size, offset)
        return super().pwrite(fd, addr, size, offset)

    def mmap(self, *args):
        self._made = None
        return super().mmap(*args)

    def _file_call(self, fd, call, foreign):
        opened = self.fds.get(fd)
        made, self._made = self._made, None
        if made is None or opened is None or not isinstance(opened.what, File):
            return super()._file_call(fd, call, foreign)
        capture = Capture()
        file = opened.what
        why = ""
        task = self._spawn(opened, tapped(call(file), capture), "call")
        try:
            number = self.scheduler.run(task)
            result = Result(number)
        except IoctlError as error:
            number, why = -error.errno, error.why
            result = Result(-1, errno_name(error.errno))
        self.events.append(made(file.kind, capture, number, why, fd=fd, file=file.label, pid=self._pid))
        return result


def record_all(monkeypatch) -> list[Recorder]:
    """From now on the conformance runner's processes are recorders; they are collected in the list."""
    made: list[Recorder] = []

    def make(*args, **kwargs):
        recorder = Recorder(*args, **kwargs)
        made.append(recorder)
        return recorder

    monkeypatch.setattr(inprocess, "Process", make)
    return made


__all__ = ["Recorder", "record_all"]
