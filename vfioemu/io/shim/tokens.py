# SPDX-License-Identifier: MIT
"""Tokens: the socket ends that are a client's fds, and what happens when the last copy of one is closed.

close() is synchronous in the kernel, and clients depend on it. So hang-ups are not left to trio's scheduler: they have an
epoll of their own, and `reap` is called before each request is dispatched. A hang-up that is pending at that moment has taken
effect before the request is looked at.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from vfioemu.core.file import POLLIN, File
from vfioemu.io.base.fds import socket_cookie
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire.names import TokenName

if TYPE_CHECKING:
    from vfioemu.io.base.accounts import Account
    from vfioemu.io.memory.regions import RegionFile
    from vfioemu.io.shim.session import Session

_BATCH: Final = 64
_MOST: Final = 16
"""Batches of hang-ups that are processed in one go."""
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_NEWS: Final = select.EPOLLIN | select.EPOLLET
_HANG_UP: Final = select.EPOLLHUP | select.EPOLLERR
_TAKEN: Final = select.EPOLLOUT | select.EPOLLET
_TRIES: Final = 8
_FAR: Final = 1 << 32
_NOTHING: Final = b""
"""What makes a token readable for poll(), and is no data for whoever reads it nevertheless."""
_NO_PATIENCE: Final = struct.pack("@ll", 0, 1)


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

    def __init__(self, serial: int, file: File, fd: int, cookie: int, account: "Account") -> None:
        self.account = account
        account.files += 1
        account.add_fds(1)
        self.serial = serial
        self.file = file
        self.fd = fd
        self.cookie = cookie
        self.sessions: list[Session] = []
        self.users = 0
        self.hung = False
        self.readable = False
        self.drain = False
        self.regions: dict[int, RegionFile] = {}

    def __str__(self) -> str:
        return f"{self.file.kind}#{self.serial}"

    def forget(self) -> None:
        """No session can name it any more."""
        for session in self.sessions:
            del session.tokens[self.serial]
        self.sessions.clear()


class TokenTable:
    """All tokens of a daemon.

    Args:
        daemon_id: 16 random bytes.
        release: what to do when a file has no reference left; gets the sessions that had proved the token.
    """

    def __init__(self, daemon_id: bytes, release: "Callable[[Token, list[Session]], None]") -> None:
        self.daemon_id = daemon_id
        self.epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._release = release
        self._serial = 0
        self._by_fd: dict[int, Token] = {}
        self._by_cookie: dict[int, Token] = {}
        self._watched: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {}
        self._watched_input: dict[int, Callable[[], None]] = {}
        self._data: set[Token] = set()

    def __len__(self) -> int:
        return len(self._by_fd)

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._by_fd.values()))

    def create(self, file: File, account: "Account") -> tuple[Token, int]:
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
            self.epoll.register(ours.fileno(), _TAKEN)  # HUP and ERR are always told
        except OSError:
            ours.close()
            theirs.close()
            raise
        token = Token(serial, file, ours.detach(), cookie, account)
        self._by_fd[token.fd] = token
        self._by_cookie[cookie] = token
        if file.kind is FdKind.DATA:
            self._data.add(token)
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
        """The token whose client end has that cookie."""
        return self._by_cookie.get(cookie)

    def discard(self, token: Token) -> None:
        """Undo `create`: nobody gets to know the file, so it gets no release() from us."""
        if token.fd >= 0:
            self._close(token)

    def watch(self, fd: int, hung_up: Callable[[], None], said: Callable[[], None]) -> None:
        """Have `hung_up` called when the peer of another socket closes it, `said` whenever it sends something."""
        self.epoll.register(fd, _NEWS)
        self._watched[fd] = hung_up, said

    def watch_input(self, fd: int, readable: Callable[[], None]) -> None:
        """Have `readable` called, at most once in a `reap`, whenever there is something to read from an fd."""
        self.epoll.register(fd, _ONCE)
        self._watched_input[fd] = readable

    def unwatch_input(self, fd: int) -> None:
        """End that, before the fd is closed."""
        if self._watched_input.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def unwatch(self, fd: int) -> None:
        """End a watch, before the fd is closed."""
        if self._watched.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def reap(self) -> bool:
        """Process the hang-ups that are pending now, and what there is to read from watched fds.

        Returns:
            Whether there are so many that others had better be served before the rest: call it again then.
        """
        seen: list[int] = []
        taken: list[Token] = []
        left = _MOST
        while left and (events := self.epoll.poll(0, _BATCH)):
            left -= 1
            for fd, what in events:
                token = self._by_fd.get(fd)
                if token is not None:
                    if what & _HANG_UP:
                        self._hang_up(token)
                    else:
                        taken.append(token)
                elif (watched := self._watched.get(fd)) is not None:
                    hung_up, said = watched
                    if what & _HANG_UP:
                        self.unwatch(fd)
                        hung_up()
                    else:
                        said()
                elif (readable := self._watched_input.get(fd)) is not None:
                    seen.append(fd)
                    readable()
                else:
                    # Of nobody: it must not be told again and again. Mostly it is closed already: a device that hung up
                    # before it in this very batch had it.
                    with contextlib.suppress(OSError):
                        self.epoll.unregister(fd)
        for token in taken:
            self._fill_again(token)
        for fd in seen:
            if fd in self._watched_input:
                self.epoll.modify(fd, _ONCE)
        return not left

    def _hang_up(self, token: Token) -> None:
        """The last copy of the client's end is closed."""
        sessions = list(token.sessions)
        self._close(token)
        if token.users:
            token.hung = True
        else:
            self._release(token, sessions)

    def put(self, token: Token, session: "Session") -> None:
        """A call of that session does not refer to the token any more: fdput()."""
        token.users -= 1
        if token.hung and not token.users:
            token.hung = False
            self._release(token, [session])

    def _close(self, token: Token) -> None:
        del self._by_fd[token.fd]
        del self._by_cookie[token.cookie]
        self._data.discard(token)
        os.close(token.fd)
        token.fd = -1
        token.account.files -= 1
        token.account.add_fds(-1)
        token.regions.clear()
        token.forget()

    # --- poll() ---

    def refresh(self) -> None:
        """Data may have come or gone: make the tokens of data fds poll accordingly.

        This is done after each call, of anybody. A device has one stream at a time, but a client may keep the fds of all that it
        ever had; so those that will not change are not looked at again.
        """
        final = []
        for token in self._data:
            self._refresh(token)
            if token.file.poll_is_final:
                final.append(token)
        self._data.difference_update(final)

    @property
    def has_data(self) -> bool:
        """Whether `refresh` has anything to do."""
        return bool(self._data)

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
        """Somebody has read the packet whom nobody had told to: it is readable still."""
        if token.fd >= 0 and token.readable and not token.drain and not _unread(token.fd):
            self._make_readable(token)

    def close(self) -> None:
        """Close everything; no file is released."""
        for token in list(self._by_fd.values()):
            self._close(token)
        self.epoll.close()


def _unread(fd: int) -> bool:
    """Whether something that we sent lies with the peer still."""
    buffer = bytearray(4)
    fcntl.ioctl(fd, termios.TIOCOUTQ, buffer)
    return any(buffer)
