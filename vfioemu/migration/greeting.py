# SPDX-License-Identifier: MIT
"""How two sides begin: preambles, and over a UNIX socket the proof that both know a secret, which is never sent.

    each side    preamble (stream.py), 16 random bytes (nonce)
    then         32 bytes: HMAC-SHA256 of the secret over side, own nonce, and the other's nonce; zeros where there is no secret

The side in it keeps somebody from sending a proof back to whom it is from.
"""

import hmac
import secrets
from typing import Final, Literal

from vfioemu.migration import stream
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import StreamError

NONCE: Final = 16
PROOF: Final = 32
SIZE: Final = stream.PREAMBLE.size + NONCE + PROOF
"""Bytes that each side sends before its first frame."""

Side = Literal["source", "destination"]


class Greeting:
    """One side's half of a beginning.

    Args:
        secret: that both have to know; None: none is wanted, and the proof of the other side is not looked at.
        side: which one this is.
        where: the file of the secret, for errors.
    """

    def __init__(self, secret: bytes | None = None, side: Side = "source", where: str = "") -> None:
        self.nonce = secrets.token_bytes(NONCE)
        self.proven = False
        self._secret = secret
        self._side: Side = side
        self._where = where

    def proof(self, theirs: bytes) -> bytes:
        """Return ours, for a peer with that nonce."""
        return self._digest(self._side, self.nonce, theirs)

    def check(self, theirs: bytes, proof: bytes) -> None:
        """Refuse, with StreamError PEER_UNTRUSTED, a peer who does not know the secret."""
        if self._secret is None:
            return
        other: Side = "destination" if self._side == "source" else "source"
        if not hmac.compare_digest(proof, self._digest(other, theirs, self.nonce)):
            raise StreamError(
                Reason.PEER_UNTRUSTED,
                f"the {other} does not know the token in {self._where}, or was told to want none",
            )
        self.proven = True

    def _digest(self, side: Side, own: bytes, other: bytes) -> bytes:
        if self._secret is None:
            return bytes(PROOF)
        return hmac.digest(self._secret, side.encode() + b"\0" + own + other, "sha256")


def opening() -> bytes:
    """Return all that comes before the first frame of a side that knows no secret, or needs none."""
    return stream.preamble() + secrets.token_bytes(NONCE) + bytes(PROOF)
