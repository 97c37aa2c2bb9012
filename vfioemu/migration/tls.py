# SPDX-License-Identifier: MIT
"""TLS 1.3 with certificates on both sides, by the ssl module of the standard library.

Each side has a certificate of one authority, and takes nobody else: the source holds the certificate of the destination
against the host that it connects to, the destination that of the source against a name, if it was given one. There is no
resumption (no tickets), so every connection proves anew who is there.

An SSL object must not be used by two threads at once, and a worker thread may send pages while trio's thread looks whether
the peer has said something. So there is a lock; nothing below it waits.
"""

import select
import socket
import ssl
import threading  # noqa: TID251 - the lock of an object that a worker thread of trio shares with trio's own
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from vfioemu.migration.greeting import Greeting
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import StreamError

RECORD: Final = 1 << 14
"""Bytes of one TLS record: what is handed to OpenSSL at once, so that it never sends a part of it."""
AT_ONCE: Final = 1 << 20
"""Bytes after which receiving is looked at from outside again."""
_DISTRUST: Final = (
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
    "UNKNOWN_CA",
    "UNSUPPORTED_CERTIFICATE",
)
"""In the name of an alert: the other side does not take our certificate."""


class TlsError(ValueError):
    """Certificates that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a side shows, and what it takes.

    Attributes:
        cert: path of our certificate, PEM, with those between it and the authority.
        key: path of its private key, PEM, without a passphrase.
        ca: path of the authority's certificate, PEM.
        name: that the certificate of the other side has to be for; None: at the source the host of the URI, at the
            destination any that the authority has signed.
    """

    cert: str
    key: str
    ca: str
    name: str | None = None


class TlsContext:
    """Both contexts of one side; the files are read once.

    Raises:
        TlsError: a file cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._name = files.name
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, files)
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, files)
        self._server.num_tickets = 0

    def connected(self, sock: socket.socket, host: str) -> "TlsWire":
        """Make the wire of a source, of a socket that is connected to `host`."""
        return TlsWire(_wrap(self._client, sock, server_hostname=self._name or host), None)

    def accepted(self, sock: socket.socket) -> "TlsWire":
        """Make the wire of a destination."""
        return TlsWire(_wrap(self._server, sock, server_side=True), self._name)


def _wrap(context: ssl.SSLContext, sock: socket.socket, **side: Any) -> ssl.SSLSocket:
    """Put TLS over a socket, which is closed if that fails."""
    try:
        return context.wrap_socket(sock, do_handshake_on_connect=False, **side)
    except (OSError, ValueError):
        sock.close()  # the peer has gone already, or its name cannot be one
        raise


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=files.ca)
    except OSError as error:  # ssl.SSLError is one
        raise TlsError(f"--tls-ca {files.ca}: {_why(error)}") from None
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except (OSError, TlsError) as error:
        raise TlsError(f"--tls-cert {files.cert}, --tls-key {files.key}: {_why(error)}") from None
    return context


def _no_passphrase() -> str:
    raise TlsError("the key has a passphrase, and nobody is asked for it")


def _why(error: Exception) -> str:
    """Say what OpenSSL says, without its file and line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class TlsWire:
    """TLS over a socket.

    Args:
        sock: nonblocking, its handshake not done.
        name: that the peer's certificate has to be for; None if OpenSSL looks at that, or nobody.
    """

    def __init__(self, sock: ssl.SSLSocket, name: str | None) -> None:
        self.proven = False
        self.established = False
        self.greeting = Greeting()
        self._ssl = sock
        self._name = name
        self._lock = threading.Lock()
        self._owed = b""
        self._ahead = b""
        """What `_look_ahead` has read: a byte, or nothing."""

    @property
    def sock(self) -> socket.socket:
        """The socket below."""
        return self._ssl

    def begin(self) -> int:
        """Go on with the handshake."""
        if self.established:
            return 0
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except ssl.SSLError as error:
            raise _refused(error) from None
        self.established = True
        if self._name is not None and not _is_for(self._ssl.getpeercert() or {}, self._name):
            raise StreamError(
                Reason.TLS_REFUSED, f"the certificate of the other side is not for {self._name}"
            )
        self.proven = True
        return 0

    def send(self, views: Sequence[memoryview]) -> int:
        """Send one record, or nothing of it.

        OpenSSL wants to be asked with the same bytes again, and pages change while they are sent: so they are copied.
        """
        self._owed = self._owed or _record(views)
        try:
            with self._lock:
                count = self._ssl.send(self._owed)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        except (ssl.SSLEOFError, ConnectionError) as error:  # which of them, depends on the release of Python
            self._look_ahead()  # why it hung up may have come
            raise (_refused(error) if isinstance(error, ssl.SSLError) else error) from None
        except ssl.SSLError as error:
            raise _refused(error) from None
        self._owed = b""
        return count

    def receive(self, views: Sequence[memoryview]) -> int:
        """Receive what there is, up to AT_ONCE."""
        total = 0
        for view in views:
            done = 0
            while done < len(view):
                count = self._receive(view[done:])
                if count is None and not total:
                    raise BlockingIOError
                if not count:
                    return total  # the end is seen again, and told then
                done += count
                total += count
            if total >= AT_ONCE:
                break
        return total

    def _receive(self, view: memoryview) -> int | None:
        """Receive what a record has; None if there is none."""
        try:
            with self._lock:
                if self._ahead:
                    view[:1], self._ahead = self._ahead, b""
                    return 1
                return self._ssl.recv_into(view)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise _refused(error) from None

    def _look_ahead(self) -> None:
        """Raise what the other side has ended the connection with; a byte that was data is kept for `receive`."""
        byte = memoryview(bytearray(1))
        if self._receive(byte):
            with self._lock:
                self._ahead = bytes(byte)

    def has_buffered(self) -> bool:
        """Whether a record was read of which not all was taken."""
        with self._lock:
            return bool(self._ahead) or self._ssl.pending() > 0


def _record(views: Sequence[memoryview]) -> bytes:
    """Copy the bytes of one record."""
    parts, left = [], RECORD
    for view in views:
        parts.append(view[:left])
        left -= len(parts[-1])
        if not left:
            break
    return b"".join(parts)


def _refused(error: ssl.SSLError) -> StreamError:
    """Make the error of a handshake, or of a connection, that TLS has ended."""
    name = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return StreamError(
            Reason.TLS_REFUSED, f"the certificate of the other side is not taken: {_why(error)}"
        )
    if "ALERT" in name and any(word in name for word in _DISTRUST):
        return StreamError(Reason.TLS_REFUSED, f"the other side does not take our certificate: {_why(error)}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return StreamError(Reason.PEER_LOST, "the connection was closed")
    return StreamError(Reason.TLS_REFUSED, f"the other side does not speak TLS as we do: {_why(error)}")


def _is_for(certificate: dict[str, Any], name: str) -> bool:
    """Whether a certificate, as getpeercert() tells it, is for a host name or an address; wildcards are none."""
    names = [(kind, value) for kind, value in certificate.get("subjectAltName", ()) if isinstance(value, str)]
    try:
        address = ip_address(name)
    except ValueError:
        return any(kind == "DNS" and value.lower() == name.lower() for kind, value in names)
    return any(kind == "IP Address" and _same(value, address) for kind, value in names)


def _same(value: str, address: IPv4Address | IPv6Address) -> bool:
    try:
        return ip_address(value.strip()) == address
    except ValueError:
        return False
