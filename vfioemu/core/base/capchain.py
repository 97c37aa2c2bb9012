# SPDX-License-Identifier: MIT
"""Capability chains: what follows an info struct (vfio_info_cap_add(), vfio_info_cap_shift())."""

from vfioemu.uapi.structs import InfoCapHeader


class CapChain:
    """Capabilities in the order in which they are added, each rounded up to eight bytes."""

    __slots__ = ("_caps",)

    def __init__(self) -> None:
        self._caps: list[tuple[int, int, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._caps)

    @property
    def size(self) -> int:
        """The size of the chain in bytes."""
        return sum(_padded(len(body)) for _, _, body in self._caps)

    def add(self, id: int, version: int, body: bytes) -> None:
        """Append a capability whose bytes after the header are `body`."""
        self._caps.append((id, version, body))

    def build(self, offset: int) -> bytes:
        """Build the chain for a place `offset` bytes after the start of the info struct; `next` counts from there too."""
        parts = []
        for number, (kind, version, body) in enumerate(self._caps, 1):
            size = _padded(len(body))
            offset += size
            header = InfoCapHeader(id=kind, version=version, next=offset if number < len(self._caps) else 0)
            parts.append((header.build() + body).ljust(size, b"\0"))
        return b"".join(parts)


def _padded(body: int) -> int:
    return (InfoCapHeader.SIZE + body + 7) & ~7
