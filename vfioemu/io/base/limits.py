# SPDX-License-Identifier: MIT
"""What a peer can make the daemon hold, at most. protocol/wire.md section 10 is the same table for people."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds and time-outs of the daemon.

    Attributes:
        max_channels: connections of a session.
        max_connections: connections of a process.
        max_tokens: tokens that a session can have proved.
        max_windows: shared memory windows of a process.
        max_shared: bytes of shared memory windows of a process; address space, not memory.
        max_all_windows: windows of all processes; together with what else is mapped, fewer than vm.max_map_count.
        max_all_shared: bytes of all windows; half of the address space.
        max_kept: bytes of memory that a process took away from its devices and that is kept for them; as many as it likes
            of a process whose daemon this is alone.
        max_all_kept: of all processes.
        max_mappings: mappings (MAP_DMA) of a process; so many containers as full as dma_entry_limit lets them be.
        max_all_mappings: of all processes.
        max_pins: areas of 16 MiB in which devices have pinned pages, for a process; some hundred bytes each.
        max_all_pins: of all processes.
        max_bitmaps: bytes of the dirty bitmaps of a process's mappings, were they full: a bit for each page.
        max_all_bitmaps: of all processes.
        max_fds: fds of the daemon's for all clients; 0 for as many as the system allows it, without its own.
        max_eventfds: eventfds of a process that the daemon holds.
        max_closing: fds of a process whose close() has not returned yet.
        max_user_closing: such fds of all processes of a user.
        hello_timeout: seconds between connecting and HELLO.
        ask_timeout: seconds that the daemon waits for one answer, one fragment, or room for one message.
    """

    max_channels: int = 64
    max_connections: int = 256
    max_tokens: int = 4096
    max_windows: int = 1024
    max_shared: int = 1 << 44
    max_all_windows: int = 32768
    max_all_shared: int = 1 << 46
    max_kept: int = 1 << 28
    max_all_kept: int = 1 << 30
    max_mappings: int = 8 * 65535
    max_all_mappings: int = 16 * 65535
    max_pins: int = 1 << 17
    max_all_pins: int = 1 << 19
    max_bitmaps: int = 1 << 30
    max_all_bitmaps: int = 1 << 32
    max_fds: int = 0
    max_eventfds: int = 16384
    max_closing: int = 16
    max_user_closing: int = 1024
    hello_timeout: float = 10.0
    ask_timeout: float = 10.0
