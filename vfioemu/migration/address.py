# SPDX-License-Identifier: MIT
"""Where a migration goes: `unix:PATH`, `tls:HOST:PORT` and `tcp:127.0.0.1:PORT`; over a modelled link with `sim:..:` before it.

TCP is for loopback only, and only for who says that he means it: the stream is neither encrypted nor authenticated, and
it is a guest's memory. A UNIX socket is created 0600 in a directory that is the user's business. Either way a peer of
another uid is turned away, by both sides: who listens could be somebody else, too; and both sides of a UNIX socket show
that they know the token beside it (tokenfile.py). With TLS both sides show certificates
(tls.py), and it goes anywhere.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, Final

import trio

from vfioemu.migration import stream, tokenfile
from vfioemu.migration.greeting import Greeting, opening
from vfioemu.migration.link import Link, LinkError, LinkSpec
from vfioemu.migration.messages import Problem
from vfioemu.migration.peers import Peers, own, peer_uid
from vfioemu.migration.plan import Reason
from vfioemu.migration.simulated import SimulatedChannel
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.tls import TlsContext, TlsError, TlsFiles
from vfioemu.migration.transport import IDLE, Channel
from vfioemu.migration.wire import PlainWire, Wire
from vfioemu.syscalls import unix_sockets

MAX_PATH: Final = 107
BUFFER: Final = 4 << 20
BACKLOG: Final = 128
"""Connections that wait to be accepted. When there are more, TCP asks again a second later: strangers would cost time."""
TCP_IS_OPEN: Final = (
    "the stream is neither authenticated nor encrypted, and every user of this machine can connect to a port"
)


class AddressError(ValueError):
    """A URI that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URI.

    Attributes:
        path: of a UNIX socket; None for TCP and TLS.
        peers: who may be at the other end.
        tls: with which certificates; None without TLS.
        link: that everything goes over, all connections together; None: as fast as it goes.
    """

    path: str | None = None
    host: str = ""
    port: int = 0
    peers: Peers = field(default_factory=own)
    tls: TlsContext | None = None
    link: Link | None = None

    @classmethod
    def parse(
        cls, uri: str, *, insecure: bool = False, peers: Peers | None = None, tls: TlsFiles | None = None
    ) -> "Address":
        """Read a URI; AddressError says what is wrong with it.

        Args:
            uri: what somebody wrote.
            insecure: TCP is meant, as it is.
            peers: who may be at the other end; by default our own user and root. Not for TLS.
            tls: certificates, for TLS only.
        """
        scheme, _, rest = uri.partition(":")
        if scheme == "sim":
            text, _, below = rest.partition(":")
            if below.startswith("sim:"):
                raise AddressError(f"{uri}: one link over another")
            address = cls.parse(below, insecure=insecure, peers=peers, tls=tls)
            try:
                return replace(address, link=Link(LinkSpec.parse(text)))
            except LinkError as error:
                raise AddressError(f"sim:{text}: {error}") from None
        if tls is not None and scheme != "tls":
            raise AddressError(f"{uri}: certificates are for tls:HOST:PORT")
        if scheme == "unix" and rest:
            if len(os.fsencode(rest)) > MAX_PATH:
                raise AddressError(
                    f"{rest}: a socket path may have {MAX_PATH} bytes, this has {len(os.fsencode(rest))}"
                )
            return cls(path=rest, peers=peers or own())
        if scheme == "tcp":
            host, port = _host_and_port(uri, rest, "tcp:127.0.0.1:PORT")
            host = "127.0.0.1" if host == "localhost" else host
            try:
                loopback = ip_address(host).is_loopback
            except ValueError:
                raise AddressError(f"{uri}: {host!r} is no IP address") from None
            if not loopback:
                raise AddressError(f"{uri}: TCP is for loopback only, the stream is not encrypted; use tls:")
            if not insecure:
                raise AddressError(f"{uri}: TCP needs --insecure, on both sides: {TCP_IS_OPEN}")
            return cls(host=host, port=port, peers=peers or own())
        if scheme == "tls":
            host, port = _host_and_port(uri, rest, "tls:HOST:PORT")
            if tls is None:
                raise AddressError(f"{uri}: TLS needs --tls-cert, --tls-key and --tls-ca")
            if peers is not None:
                raise AddressError(f"{uri}: --peer-uid is not for TLS, whose certificates tell who is there")
            try:
                return cls(host=host, port=port, peers=Peers(None), tls=TlsContext(tls))
            except TlsError as error:
                raise AddressError(str(error)) from None
        raise AddressError(f"{uri!r}: expected unix:PATH, tls:HOST:PORT or tcp:127.0.0.1:PORT")

    def __str__(self) -> str:
        if self.link is not None:
            return f"sim:{self.link.spec}:{replace(self, link=None)}"
        if self.path is not None:
            return f"unix:{self.path}"
        scheme = "tcp" if self.tls is None else "tls"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}:{host}:{self.port}"

    def check(self, wire: Wire) -> None:
        """Refuse, with StreamError PEER_UNTRUSTED, a connection to somebody who may not be there.

        Who has accepted a TCP connection is known when he has spoken, not before. With TLS the handshake has told it.
        """
        if wire.proven:
            return
        uid = peer_uid(wire.sock)
        if not self.peers.allow(uid):
            who = "cannot be told" if uid is None else f"is uid {uid}"
            raise StreamError(
                Reason.PEER_UNTRUSTED, f"who listens on {self} {who}; only {self.peers} is trusted"
            )

    async def connect(self, patience: float = 10.0) -> Wire:
        """Connect: return a wire; `check` it before the first secret.

        Raises:
            StreamError: PEER_ABSENT when there is nobody, PEER_UNTRUSTED when it is not allowed.
        """
        try:
            with trio.fail_after(patience):
                sock = await self._connect()
            if self.tls is not None:
                return self.tls.connected(sock, self.host)
            try:
                return PlainWire(sock, self._greeting())
            except StreamError:
                sock.close()
                raise
        except (OSError, ValueError) as error:  # ValueError: a host that cannot be in a certificate
            why = error.strerror if isinstance(error, OSError) else error
            # Somebody else's socket: to wait until somebody listens would be of no use.
            forbidden = isinstance(error, PermissionError)
            reason = Reason.PEER_UNTRUSTED if forbidden else Reason.PEER_ABSENT
            raise StreamError(reason, f"cannot connect to {self}: {why}") from None
        except trio.TooSlowError:
            raise StreamError(
                Reason.PEER_ABSENT, f"cannot connect to {self}: no answer in {patience:g} s"
            ) from None

    def require_no_link(self) -> None:
        """Refuse, with AddressError, an address that nobody can listen at."""
        if self.link is not None:
            raise AddressError(f"{self}: sim: is the source's, which models both ways")

    def channel(self, wire: Wire, idle: float = IDLE) -> Channel:
        """Make the channel of a source: over the link, if there is one; `idle` as that of Channel."""
        return Channel(wire, idle) if self.link is None else SimulatedChannel(wire, self.link, idle)

    def _greeting(self) -> Greeting:
        """How a source begins; the file of the secret is there as soon as somebody listens."""
        if self.path is None or not self.wants_token:
            return Greeting()
        return Greeting(tokenfile.read(self.path, self.peers), "source", self.path + tokenfile.SUFFIX)

    @property
    def wants_token(self) -> bool:
        """Whether both sides have to know the token beside the socket: all who may come can read a file of 0600."""
        uids = self.peers.uids
        return self.path is not None and uids is not None and uids <= {os.getuid(), 0}

    async def _connect(self) -> socket.socket:
        if self.tls is not None:
            found = await trio.open_tcp_stream(self.host, self.port)  # all addresses of a host
            return _tune(socket.socket(fileno=found.socket.detach()))
        family = socket.AF_UNIX if self.path is not None else _family(self.host)
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            await sock.connect(self.path if self.path is not None else (self.host, self.port))
            return _tune(socket.socket(fileno=sock.detach()))
        finally:
            sock.close()

    @contextmanager
    def listen(self) -> Iterator["Listener"]:
        """Listen; a UNIX socket of a dead process is replaced, one of a living process is not.

        Raises:
            AddressError: somebody else listens there, or the place cannot be used.
        """
        self.require_no_link()
        with ExitStack() as stack:
            try:
                family, where = self._place()
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if self.path is not None:
                    stack.enter_context(unix_sockets.bound(sock, self.path))
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(where)
                secret = (
                    stack.enter_context(tokenfile.made(self.path)) if self.path and self.wants_token else None
                )
                sock.listen(BACKLOG)
            except OSError as error:
                raise AddressError(f"cannot listen on {self}: {error.strerror}") from None
            yield Listener(sock, self, secret)

    def _place(self) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
        """Family of the socket to listen with, and where it is bound if it is no UNIX socket."""
        if self.path is not None:
            return socket.AF_UNIX, ()
        if self.tls is None:
            return _family(self.host), (self.host, self.port)
        [(family, _, _, _, where), *_] = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return family, where


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket.

    Attributes:
        secret: that who connects has to know; None if he need not.
    """

    sock: socket.socket
    address: Address
    secret: bytes | None = None

    @property
    def bound(self) -> Address:
        """Where it listens; port 0 has become a real one."""
        if self.address.path is not None:
            return self.address
        return replace(self.address, port=self.sock.getsockname()[1])

    async def accept(self, refused: Callable[[int | None], None] = lambda uid: None) -> tuple[Wire, bool]:
        """Accept the next connection of somebody who may connect; return it, and whether it is known who that is.

        With TLS that is known when its handshake is over, and nothing can be said or heard before.

        Args:
            refused: is told the uid of who was turned away; None: it cannot be told.

        Raises:
            OSError: no connection can ever be taken, as accept() is forbidden.
        """
        self.sock.setblocking(False)
        while True:
            # Whoever connects as fast as he can would else keep this loop, and all others, from everything.
            await trio.lowlevel.checkpoint()
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
                continue
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):  # a filter of system calls
                    raise
                await trio.sleep(0.1)  # ECONNABORTED; EMFILE and its kin: who has fds is given time
                continue
            if self.address.tls is not None:
                try:
                    return self.address.tls.accepted(_tune(sock)), True
                except OSError:
                    continue  # it has gone already
            uid = peer_uid(sock)
            if not self.address.peers.allow(uid):
                _turn_away(sock, f"only {self.address.peers} may connect")
                refused(uid)
                continue
            where = f"{self.address.path}{tokenfile.SUFFIX}"
            greeting = Greeting(self.secret, "destination", where)
            return PlainWire(_tune(sock), greeting), uid in (os.getuid(), 0)


def _tune(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _host_and_port(uri: str, rest: str, expected: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise AddressError(f"{uri}: expected {expected}")
    return host, int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _turn_away(sock: socket.socket, why: str) -> None:
    """Say why, if that can be said at once, and hang up."""
    problem = stream.encode(Problem(reason=Reason.PEER_UNTRUSTED, detail=why))
    sock.setblocking(False)
    try:
        sock.send(opening() + stream.frame(FrameType.PROBLEM, 0, problem), socket.MSG_NOSIGNAL)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it is gone already
    sock.close()
