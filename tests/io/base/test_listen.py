# SPDX-License-Identifier: MIT
"""Connections are taken again once fds are free, and say who made them."""

import errno
import os
import socket

from vfioemu.io.base.listen import accept


class Exhausted(socket.socket):
    """A listener of a process that has no fd left, twice; another one takes a connection before it, once."""

    def __init__(self):
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.errors = [errno.EMFILE, errno.EAGAIN, errno.EMFILE]

    def accept(self):
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, os.strerror(number))
        return super().accept()


async def test_a_listener_without_fds_waits_and_goes_on(tmp_path, caplog, autojump_clock):
    with Exhausted() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        listener.bind(os.fspath(tmp_path / "s"))
        listener.listen()
        client.connect(os.fspath(tmp_path / "s"))

        sock, pid, uid = await accept(listener)

        sock.close()
    assert (pid, uid) == (os.getpid(), os.getuid())
    assert [record.message for record in caplog.records] == ["accept: Too many open files"] * 2
