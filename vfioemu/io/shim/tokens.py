# SPDX-License-Identifier: MIT
"""Tokens: the socket ends that are a client's fds, and what happens when the last copy of one is closed.

The problem. A program's fd of /dev/vfio/vfio must be a real fd: it is dup()ed, inherited by children, sent to other processes,
polled, and closed by exit() or kill -9. The emulated file behind it has to live exactly as long as its last copy, whoever has
that; only the kernel knows. And nobody must be able to make one up.

The answer. An emulated open file is a SOCK_SEQPACKET socketpair. The client gets one end, and that *is* its fd; we keep the other.
The kernel counts the copies for us, over dup, fork and SCM_RIGHTS alike, and when the last one is closed, our end says EPOLLHUP:
that is release(). A call names the file by the token's serial number, once its session has *proved* that it has the fd by sending
it along with a call; we recognise it by its socket cookie (fds.py says why not by the inode). A proof lasts as long as the
session wants it. So a process that got the fd by fork or by a message proves it once, and a process that has only guessed a number
has nothing.

What was thought of, and is not done:

* A pipe, an eventfd or a memfd in place of the socketpair. A pipe tells when its last reader is gone, but anybody of the same user
  can open it anew by /proc/PID/fd; the others do not tell the last close at all.
* The fd along with each call, and no proofs. A message with an fd, received and closed, takes 5.3 us where one without takes 3.1.
* Leaving hang-ups to trio, one task for each token. close() is synchronous in the kernel, and clients depend on it: who closes
  a device and then says UNSET_CONTAINER must not get EBUSY. trio looks at its sockets in an order of its own, so the call could
  be answered first. Therefore hang-ups are in the poller (base/poller.py), which is asked before each call is looked at: what
  the client closed before it sent the call is pending there by then. tests/daemon/test_order.py has the counter-example.

Two things follow that look odd below. While a call is in progress its files must not be released although the client closes
their fds, so `users` counts like fdget(), and `put` runs the release that came meanwhile. And poll() on the client's fd must say
what the emulated file says, without us: a socket is readable if a packet lies in it, so an empty packet is kept in the client's
end as long as the file is readable, and is put back (`_fill_again`) if somebody reads it.
"""

import errno
import fcntl
import os
import secrets
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from vfioemu.core.base.file import POLLIN, File
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.fds import socket_cookie
from vfioemu.io.base.poller import HANG_UP, Poller
from vfioemu.io.memory.regions import RegionFile
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire.names import TokenName

_TAKEN: Final = select.EPOLLOUT | select.EPOLLET
_TRIES: Final = 8
_FAR: Final = 1 << 32
_NOTHING: Final = b""
"""What makes a token readable for poll(), and is no data for whoever reads it nevertheless."""
_NO_PATIENCE: Final = struct.pack("@ll", 0, 1)


class Holder(Protocol):
    """A session that can name tokens.

    Attributes:
        tokens: those that it has proved, by serial.
    """

    tokens: "dict[int, Token]"

    def release_begins(self) -> None:
        """Note that a file it held is being released, and that its calls wait for that."""

    def release_ends(self) -> None:
        """Note that this is done."""


class Token:
    """One emulated open file: our end of its socketpair.

    Attributes:
        serial: its name; never used twice.
        cookie: of the client's end, by which a received fd is recognised.
        sessions: those that proved that they hold it.
        users: calls in progress that refer to it, as fdget() does: release() waits for them.
        hung: the last copy is closed.
        readable: an unread packet lies in the client's end.
        drain: that packet is to go, with the next reply on this token.
        account: whose process it was made for.
        regions: what of the device's memory was given to be mapped, by inode.
    """

    __slots__ = (
        "account",
        "cookie",
        "drain",
        "fd",
        "file",
        "hung",
        "readable",
        "regions",
        "serial",
        "sessions",
        "users",
    )

    def __init__(self, serial: int, file: File, fd: int, cookie: int, account: Account) -> None:
        self.account = account
        account.files += 1
        account.add_fds(1)
        self.serial = serial
        self.file = file
        self.fd = fd
        self.cookie = cookie
        self.sessions: list[Holder] = []
        self.users = 0
        self.hung = False
        self.readable = False
        self.drain = False
        self.regions: dict[int, RegionFile] = {}

    def __str__(self) -> str:
        return f"{self.file.kind}#{self.serial}"

    def forget(self) -> None:
        """Take it from all sessions: none can name it any more."""
        for session in self.sessions:
            del session.tokens[self.serial]
        self.sessions.clear()


class TokenTable:
    """The tokens of a daemon.

    Args:
        daemon_id: 16 random bytes.
        poller: what watches them.
        release: what to do when a file has no reference left; gets the sessions that had proved the token.

    Attributes:
        data: those of data fds whose poll() may change: without any, `refresh` has nothing to do.
    """

    def __init__(
        self, daemon_id: bytes, poller: Poller, release: Callable[[Token, Sequence[Holder]], None]
    ) -> None:
        self.daemon_id = daemon_id
        self._poller = poller
        self._release = release
        self._serial = 0
        self._by_fd: dict[int, Token] = {}
        self._by_cookie: dict[int, Token] = {}
        self.data: set[Token] = set()

    def __len__(self) -> int:
        return len(self._by_fd)

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._by_fd.values()))

    def create(self, file: File, account: Account) -> tuple[Token, int]:
        """Make a token for `file` on somebody's account: it, and the client's end, which the caller sends and then closes.

        Raises:
            OSError: EMFILE, ENFILE: we have no more fds.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            serial = self._bind(ours, file.kind)
            ours.setblocking(False)
            # Nothing can be sent to us: an fd of the token itself that lay here unread would keep it alive for ever.
            ours.shutdown(socket.SHUT_RD)
            cookie = socket_cookie(theirs.fileno())
            assert cookie is not None
            # Who reads without asking us (io_uring, libc's own streams) finds the end of a file, and does not hang.
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _NO_PATIENCE)
            self._poller.watch(ours.fileno(), _TAKEN, self._event)  # HUP and ERR are always told
        except OSError:
            ours.close()
            theirs.close()
            raise
        token = Token(serial, file, ours.detach(), cookie, account)
        self._by_fd[token.fd] = token
        self._by_cookie[cookie] = token
        if file.kind is FdKind.DATA:
            self.data.add(token)
            self._refresh(token)
        else:
            self._make_readable(token)
        return token, theirs.detach()

    def _bind(self, sock: socket.socket, kind: FdKind) -> int:
        """Give our end the next name that is free: its serial.

        Raises:
            OSError: there is none.
        """
        for _ in range(_TRIES):
            self._serial += 1
            try:
                sock.bind(TokenName(self.daemon_id, kind, self._serial).address())
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                # Anybody can read our names and bind those that come next; so where we go on is not to be guessed.
                self._serial += secrets.randbelow(_FAR)
            else:
                return self._serial
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def by_cookie(self, cookie: int) -> Token | None:
        """Find the token whose client end has that cookie."""
        return self._by_cookie.get(cookie)

    def discard(self, token: Token) -> None:
        """Undo `create`: nobody gets to know the file, so it gets no release() from us."""
        if token.fd >= 0:
            self._close(token)

    def _event(self, fd: int, what: int) -> None:
        """React to a client's end that is closed, or out of which somebody has read the packet."""
        token = self._by_fd[fd]
        if what & HANG_UP:
            self._hang_up(token)
        else:
            self._poller.afterwards(lambda: self._fill_again(token))

    def _hang_up(self, token: Token) -> None:
        """Release the file, at once or after the calls that use it: the last copy of the client's end is closed."""
        sessions = list(token.sessions)
        self._close(token)
        if token.users:
            token.hung = True
        else:
            self._release(token, sessions)

    def put(self, token: Token, session: Holder) -> None:
        """End a call's reference to the token: fdput(). A hang-up that came meanwhile takes effect now."""
        token.users -= 1
        if token.hung and not token.users:
            token.hung = False
            self._release(token, [session])

    def _close(self, token: Token) -> None:
        del self._by_fd[token.fd]
        del self._by_cookie[token.cookie]
        self.data.discard(token)
        self._poller.forget(token.fd)
        os.close(token.fd)
        token.fd = -1
        token.account.files -= 1
        token.account.add_fds(-1)
        token.regions.clear()
        token.forget()

    # --- poll() ---

    def refresh(self) -> None:
        """Make the tokens of data fds poll as their files do now: data may have come or gone.

        This is done after each call, of anybody. A device has one stream at a time, but a client may keep the fds of all that it
        ever had; so those that will not change are not looked at again.
        """
        final = []
        for token in self.data:
            self._refresh(token)
            if token.file.poll_is_final:
                final.append(token)
        self.data.difference_update(final)

    def _refresh(self, token: Token) -> None:
        if token.file.poll() & POLLIN:
            token.drain = False
            if not token.readable:
                self._make_readable(token)
        else:
            token.drain = token.readable

    def _make_readable(self, token: Token) -> None:
        try:
            os.write(token.fd, _NOTHING)
        except OSError:
            return  # hung up meanwhile
        token.readable = True

    def _fill_again(self, token: Token) -> None:
        """Put the packet back that somebody has read whom nobody had told to: the file is readable still."""
        if token.fd >= 0 and token.readable and not token.drain and not _unread(token.fd):
            self._make_readable(token)

    def close(self) -> None:
        """Close everything; no file is released."""
        for token in list(self._by_fd.values()):
            self._close(token)


def _unread(fd: int) -> bool:
    """Tell whether something that we sent lies with the peer still."""
    buffer = bytearray(4)
    fcntl.ioctl(fd, termios.TIOCOUTQ, buffer)
    return any(buffer)
