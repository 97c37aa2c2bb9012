# SPDX-License-Identifier: MIT
"""The `dma-engine` device as its driver sees it: a PCI function, its registers, and the stamp that every write carries.

BAR 0 has two pages: the registers, and the ring table, which is memory that may be mapped. BAR 2 has the MSI-X table and
its pending bits; BAR 4, if the machine's owner wants it, is memory behind a 64-bit prefetchable BAR. There are 4 MSI and
8 MSI-X vectors, and INTA.

All registers are 64 bits, little endian. They are read in any pieces, and written in whole registers (8 bytes, aligned,
any number of them at once, in order of address) or halves (4 bytes, aligned); a value that makes no sense is EINVAL. What
happens when a register is written happens with its low half, so a driver that has no 64-bit stores writes that one last.

======  ============  ====  ===========================================================================================
offset  register      r/w   meaning
======  ============  ====  ===========================================================================================
0x000   ID            r     ENGINE_ID
0x008   DEVICE_ID     r     who writes: what stamps carry
0x010   CONTROL       rw    bit 0 RUN: write by yourself, at RATE, while the migration state allows it
0x018   BASE          rw    IOVA of the area, page aligned
0x020   SIZE          rw    its size, whole pages; the area ends at 2^48 at the latest
0x028   PATTERN       rw    which page is next: 0 sequential, 1 random, 2 hot (9 of 10 to the first HOT_PAGES), 3 ring:
                            SIZE / 4096 entries of the ring table, 512 at most, are the IOVAs; BASE does not count
0x030   RATE          rw    writes a second; 0, and beyond ten million, is as many as possible
0x038   WRITE_SIZE    rw    bytes of a write, 32 to 4096: a stamp, then the low byte of its sequence number
0x040   OFFSET        rw    where in its page a write goes; OFFSET + WRITE_SIZE <= 4096
0x048   SEED          rw    of the random generator, which starts anew when it is written
0x050   HOT_PAGES     rw    size of the hot set of PATTERN 2
0x058   LIMIT         rw    RUN ends when SEQ gets here; 0 is never
0x060   PIN_MODE      rw    0 never pin, 1 pin pages before they are written and keep them, 2 the same, keep PIN_PAGES
0x068   PIN_PAGES     rw    how many pages PIN_MODE 2 keeps; the oldest is given back
0x070   IRQ_EVERY     rw    raise IRQ_VECTOR after so many writes; 0 is never
0x078   BATCH         rw    writes in one batch, 1 to 256
0x080   ARG0          rw    argument of COMMAND
0x088   ARG1          rw    argument of COMMAND
0x090   ARG2          rw    argument of COMMAND
0x098   COMMAND       rw    writing it executes: 1 pin ARG1 pages from ARG0 with prot ARG2 (1 read, 2 write);
                            2 unpin ARG1 pages from ARG0; 3 write ARG0 pages (at most 4096) now; 4 unpin everything;
                            5 copy ARG2 bytes (at most 1 MiB) from ARG0 to ARG1; 6 raise vector ARG0;
                            with bit 8 set, IRQ_VECTOR is raised when it is done
0x0a0   RESULT        r     of the last COMMAND: pages, bytes of 5, or a negative errno (EBUSY: stopped by migration, EIO:
                            no bus master; EINPROGRESS: 3 and 5 are put off in the P2P states, and go on afterwards)
0x0a8   IRQ_VECTOR    rw    which vector the device raises, 0 to 7; of MSI, n modulo the vectors that are enabled
0x0b0   IRQ_STATUS    rw1c  bit n: vector n has been raised since it was cleared; while a bit is set, INTx is asserted
0x0b8   DOORBELL      w     writing n: COMMAND 3 with ARG0 = n, and IRQ_VECTOR when it is done
0x100   SEQ           r     sequence number of the last write; the first is 1
0x108   WRITES        r     writes that reached memory
0x110   BYTES         r     their bytes
0x118   FAILED        r     writes that did not (no mapping, no permission, no memory, no bus master)
0x120   HIDDEN        r     writes that left no dirty mark (only a device that was told to lie)
0x128   PINNED        r     pins held now
0x130   IRQS          r     interrupts raised
0x138   LAST_IOVA     r     of the last write
0x140   ACTIVE        r     1 while RUN is set and the migration state lets the device do DMA
======  ============  ====  ===========================================================================================
"""

import struct
from enum import IntEnum
from typing import Final

ENGINE_ID: Final = int.from_bytes(b"VFE-DMA1", "little")
VENDOR_ID: Final = 0x1AFE
DEVICE_ID: Final = 0x0D01
"""No driver of Linux binds to it."""
REGISTERS_SIZE: Final = 0x1000
RING_OFFSET: Final = 0x1000
"""Where in BAR 0 the ring table is: 64-bit IOVAs of pages, little endian."""
RING_ENTRIES: Final = 512
BAR_SIZE: Final = 0x2000
MSI_VECTORS: Final = 4
MSIX_VECTORS: Final = 8
MAX_BATCH: Final = 256
MAX_WRITE: Final = 4096
"""Pages that command 3 writes at once; more is -EINVAL."""
AREA_END: Final = 1 << 48


class Register(IntEnum):
    """Offsets in BAR 0."""

    ID = 0x000
    DEVICE_ID = 0x008
    CONTROL = 0x010
    BASE = 0x018
    SIZE = 0x020
    PATTERN = 0x028
    RATE = 0x030
    WRITE_SIZE = 0x038
    OFFSET = 0x040
    SEED = 0x048
    HOT_PAGES = 0x050
    LIMIT = 0x058
    PIN_MODE = 0x060
    PIN_PAGES = 0x068
    IRQ_EVERY = 0x070
    BATCH = 0x078
    ARG0 = 0x080
    ARG1 = 0x088
    ARG2 = 0x090
    COMMAND = 0x098
    RESULT = 0x0A0
    IRQ_VECTOR = 0x0A8
    IRQ_STATUS = 0x0B0
    DOORBELL = 0x0B8
    SEQ = 0x100
    WRITES = 0x108
    BYTES = 0x110
    FAILED = 0x118
    HIDDEN = 0x120
    PINNED = 0x128
    IRQS = 0x130
    LAST_IOVA = 0x138
    ACTIVE = 0x140


class Pattern(IntEnum):
    """Values of PATTERN."""

    SEQUENTIAL = 0
    RANDOM = 1
    HOT = 2
    RING = 3


class PinMode(IntEnum):
    """Values of PIN_MODE."""

    NONE = 0
    KEEP = 1
    WINDOW = 2


class Command(IntEnum):
    """Values of COMMAND."""

    PIN = 1
    UNPIN = 2
    WRITE = 3
    UNPIN_ALL = 4
    COPY = 5
    INTERRUPT = 6


COMMAND_INTERRUPT: Final = 1 << 8
"""Beside a command: raise IRQ_VECTOR when it is done."""
MAX_COPY: Final = 1 << 20
"""Bytes that command 5 copies at once; more is -EINVAL."""
MAX_PUT_OFF: Final = 64
"""Commands that wait in the P2P states, RESULT being -EINPROGRESS; more are -EBUSY."""
CONTROL_RUN: Final = 1

STAMP_MAGIC: Final = b"VFE-DMA\0"
STAMP_LAYOUT: Final = struct.Struct("<8sQQQ")
STAMP_SIZE: Final = STAMP_LAYOUT.size
"""32 bytes; with the default registers they are the first of a page."""
