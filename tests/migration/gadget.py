# SPDX-License-Identifier: MIT
"""Devices of somebody else: plug-ins that know nothing of our client, and of which it knows nothing.

`Gadget` is a whole device without any help: registers, config space with MSI-X, its table in a BAR that shows it, memory that can be
mapped, DMA that it logs by itself. `Slate` is a PCI function on vfio-pci's layer, with memory and config space that move.
"""

import errno
import os
import struct

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import Irq
from vfioemu.core.model.regions import ABSENT, READ_WRITE, Region
from vfioemu.core.model.streams import (
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
)
from vfioemu.devices.pci import Bar, Function, MsiX, PciHardware, VfioPci
from vfioemu.uapi import constants as c

PRECOPYING = (PRE_COPY, PRE_COPY_P2P)
REGISTERS, MSIX, MEMORY, CONFIG = 0, 1, 2, c.VFIO_PCI_CONFIG_REGION_INDEX
VECTORS = 4
PBA = 0x800
RAISE = 0xC00
MEMORY_SIZE = 64 << 10
LINE = 0x3C
RUN, TARGET = 0, 8
"""Registers: it writes to guest memory while RUN is not 0; to TARGET."""
EVERY = 0.002


class Saving(SavingStream):
    """Gives `before` while the device runs, and `final` afterwards."""

    def __init__(self, final, *, precopy):
        self.final = final
        self.precopy = precopy
        self.data = b"hello" if precopy else final()

    def stop(self):
        self.precopy = False
        self.data += self.final()

    def peek(self, size):
        if self.precopy and not self.data:
            raise IoctlError(errno.ENOMSG, "nothing for now")
        return self.data[:size]

    def advance(self, size):
        self.data = self.data[size:]

    def precopy_info(self):
        return len(self.data), 0


class Resuming(ResumingStream):
    """Keeps what comes."""

    def __init__(self):
        self.data = bytearray()

    def append(self, data):
        self.data += data


class Moving:
    """A device that migrates: `parts` are its state, by name."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.saving = self.resuming = None

    def parts(self):
        raise NotImplementedError

    def load_part(self, name, data):
        raise NotImplementedError

    def save(self):
        return b"".join(self.parts().values())

    def load(self, data):
        for name, old in self.parts().items():
            self.load_part(name, data[: len(old)])
            data = data[len(old) :]
        if data:
            raise IoctlError(errno.EINVAL, f"{len(data)} bytes too many")

    def arc(self, current, target):
        if target in PRECOPYING and current not in PRECOPYING:
            self.saving = self.begin(precopy=True)
            return self.saving
        if current == STOP and target == STOP_COPY:
            self.saving = self.begin(precopy=False)
            return self.saving
        if current in PRECOPYING and target == STOP_COPY:
            self.saving.stop()
        elif target == RESUMING:
            self.resuming = Resuming()
            return self.resuming
        elif current == RESUMING:
            self.load(bytes(self.resuming.data).removeprefix(b"hello"))
        return None

    def begin(self, *, precopy):
        return Saving(self.save, precopy=precopy)

    def stop_copy_size(self):
        return len(self.save())


class Gadget(Moving, DeviceModel):
    """See the module."""

    migration_flags = c.VFIO_MIGRATION_STOP_COPY | c.VFIO_MIGRATION_P2P | c.VFIO_MIGRATION_PRE_COPY
    has_dma_logging = True

    def __init__(self, options):
        super().__init__(options)
        self.memory = -1
        self.clear()

    def open_device(self):
        self.memory = os.memfd_create("gadget", os.MFD_CLOEXEC)
        os.truncate(self.memory, MEMORY_SIZE)
        self.clear()

    def clear(self):
        self.registers = bytearray(64)
        self.config = bytearray(256)
        struct.pack_into("<HHHH", self.config, 0, 0xBEEF, 1, 2, 0x10)
        self.config[0x34] = 0x40
        struct.pack_into("<BBHII", self.config, 0x40, 0x11, 0, VECTORS - 1, MSIX, MSIX | PBA)
        self.table = bytearray(16 * VECTORS)
        self.pending = bytearray(8)
        self.written = set()
        self.logs = False

    def close_device(self):
        os.close(self.memory)

    def regions(self):
        memory = Region(MEMORY_SIZE, READ_WRITE | c.VFIO_REGION_INFO_FLAG_MMAP)
        return (
            *(Region(64, READ_WRITE), Region(4096, READ_WRITE), memory),
            *[ABSENT] * 4,
            *(Region(256, READ_WRITE), None),
        )

    def irqs(self):
        none = Irq(0, c.VFIO_IRQ_INFO_EVENTFD)
        return (none, none, Irq(VECTORS, c.VFIO_IRQ_INFO_EVENTFD), none, none)

    def place(self, index, offset, size):
        if index == MSIX:
            inside = offset + size <= len(self.table)
            return (self.table, offset) if inside else (self.pending, offset - PBA)
        return (self.registers, offset) if index == REGISTERS else (self.config, offset)

    def read_region(self, index, offset, size):
        if index == MEMORY:
            return os.pread(self.memory, size, offset)
        data, at = self.place(index, offset, size)
        return bytes(data[at : at + size])

    def write_region(self, index, offset, data):
        if index == MEMORY:
            os.pwrite(self.memory, data, offset)
            return
        place, at = self.place(index, offset, len(data))
        place[at : at + len(data)] = data
        self.host.wake()

    def map_region(self, index, offset, size, prot):
        return Mapped(self.memory, offset) if index == MEMORY else None

    def work(self, now):
        if not self.registers[RUN]:
            return None
        iova = int.from_bytes(self.registers[TARGET : TARGET + 8], "little")
        self.registers[16] = (self.registers[16] + 1) & 0xFF
        yield from self.host.rw_write(iova, b"gadget" + bytes(self.registers[16:17]))
        self.mark(iova)
        return now + EVERY

    def mark(self, iova):
        if self.logs:
            self.written.add(iova & -4096)

    def log_start(self, page_size, ranges):
        self.written = set()
        self.logs = True
        return 4096

    def log_stop(self):
        self.logs = False

    def log_report(self, iova, length, sink):
        hit = {page for page in self.written if iova <= page < iova + length}
        self.written -= hit
        for page in hit:
            sink.set(page, 4096)

    def parts(self):
        return {
            "registers": bytes(self.registers),
            "config": bytes(self.config),
            "table": bytes(self.table),
            "pending": bytes(self.pending),
            "memory": os.pread(self.memory, MEMORY_SIZE, 0),
        }

    def load_part(self, name, data):
        if name == "memory":
            os.pwrite(self.memory, data, 0)
        else:
            getattr(self, name)[:] = data


class SlateCard(PciHardware):
    """Memory in BAR 0, and MSI-X in BAR 2."""

    def __init__(self):
        bars = {0: Bar(MEMORY_SIZE, memory=True), 2: Bar(4096, areas=())}
        msix = MsiX(VECTORS, table_bar=2, table_offset=0, pba_bar=2, pba_offset=PBA)
        super().__init__(
            Function(
                vendor=0xBEEF,
                device=2,
                class_code=0x088000,
                interrupt_pin=1,
                bars=bars,
                capabilities=(msix,),
            )
        )

    def read_bar(self, bar, offset, size):
        return self.bar_memory(bar).read(offset, size) if bar == 0 else bytes(size)

    def write_bar(self, bar, offset, data):
        """Write to memory; what is written behind the pending bits raises that vector."""
        if bar == 0:
            self.bar_memory(bar).write(offset, data)
        else:
            yield from self.interrupt(data[0])


class Slate(Moving, VfioPci):
    """See the module. Its name is said when it is made, as a machine file has it."""

    migration_flags = c.VFIO_MIGRATION_STOP_COPY | c.VFIO_MIGRATION_P2P

    def __init__(self, options):
        super().__init__(options, SlateCard())

    def parts(self):
        return {
            "config": self.save_pci(),
            "pending": self.interrupts.messages.pending.to_bytes(8, "little"),
            "memory": self.hardware.bar_memory(0).read(0, MEMORY_SIZE),
        }

    def load(self, data):
        parts = {}
        for name, old in self.parts().items():
            parts[name], data = data[: len(old)], data[len(old) :]
        for name in ("memory", "pending"):
            self.load_part(name, parts[name])
        return self.load_config(parts["config"])

    def arc(self, current, target):
        if current == RESUMING:
            return self.arrive()
        return super().arc(current, target)

    def arrive(self):
        yield from self.load(bytes(self.resuming.data))

    def load_config(self, data):
        yield from self.load_pci(data)

    def load_part(self, name, data):
        if name == "pending":
            self.interrupts.messages.pending = int.from_bytes(data, "little")
        else:
            self.hardware.bar_memory(0).write(0, data)
