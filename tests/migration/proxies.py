# SPDX-License-Identifier: MIT
"""What stands between source and destination, on a port of loopback."""

from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from vfioemu.migration import greeting, stream
from vfioemu.migration.address import Address


class Frame(NamedTuple):
    """A frame as it went over the wire: its type, the sizes of its two parts, and all its bytes."""

    kind: int
    body: int
    bulk: int
    data: bytes


class Proxy:
    """Takes connections while `up` lasts; a subclass serves them."""

    @asynccontextmanager
    async def up(self):
        """Where to connect to."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self.serve, listeners)
            yield Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
            nursery.cancel_scope.cancel()

    async def serve(self, left):
        """Serve a connection."""
        raise NotImplementedError


async def read(here, size):
    """So many bytes; EOFError if there are fewer."""
    data = bytearray()
    while len(data) < size:
        got = await here.receive_some(min(1 << 18, size - len(data)))
        if not got:
            raise EOFError
        data += got
    return bytes(data)


async def copy_greeting(here, there):
    """Preamble and nonce, then the proof: it is sent when the other side has sent the first two."""
    await there.send_all(await read(here, greeting.SIZE - greeting.PROOF))
    await there.send_all(await read(here, greeting.PROOF))


async def read_frame(here):
    """The next frame; EOFError at the end."""
    head = await read(here, stream.HEADER_SIZE)
    kind, _, body, bulk, _ = stream.HEADER.unpack_from(head)
    return Frame(kind, body, bulk, head + await read(here, body + bulk))
