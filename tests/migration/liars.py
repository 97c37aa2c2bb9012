# SPDX-License-Identifier: MIT
"""Devices that do not tell the truth while they migrate, for the matrix of test_liars.py.

A liar's name says what it does. Those that forget do so when they have loaded what they were sent.
"""

import errno

from tests.migration.gadget import Gadget, Saving, Slate
from tests.migration.lab import HIGH
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import STOP, STOP_COPY
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.devices.mtty import Mtty
from vfioemu.devices.oracle import Oracle
from vfioemu.devices.oracle.migrate import OracleSaving, Sizes

LINE = 0x3C
BIG = 4 << 20


class Changing:
    """Counts how often its state was asked for, in its state."""

    asked = 0

    def ask(self):
        self.asked += 1
        return self.asked


# --- dma-engine ---


class EngineForgetsRegisters(DmaEngine):
    def _load(self):
        yield from super()._load()
        self.card.registers.reset()


class EngineForgetsMemory(DmaEngine):
    def _load(self):
        yield from super()._load()
        self.card.memory.clear()


class EngineForgetsConfig(DmaEngine):
    def _load(self):
        yield from super()._load()
        self.config.copy[LINE] = 0


class EngineForgetsInterrupt(DmaEngine):
    def _load(self):
        yield from super()._load()
        self.card.vectors.load(0)
        yield from self.interrupts.set_line(False)


class EngineForgetsPendingBits(DmaEngine):
    def _load(self):
        yield from super()._load()
        self.interrupts.messages.pending = 0


class EngineForgetsSequence(DmaEngine):
    """Loses one number that the guest cannot see but in the next stamp."""

    def _load(self):
        yield from super()._load()
        self.card.writer.random ^= 1


class EngineChanges(Changing, DmaEngine):
    def _state(self):
        self.card.writer.random = self.ask()
        return super()._state()


class EngineSaysLess(DmaEngine):
    def stop_copy_size(self):
        return 100


# --- mtty ---


class TtyForgetsRegisters(Mtty):
    def _load(self):
        self._resuming = None


class TtyForgetsConfig(Mtty):
    def _load(self):
        super()._load()
        self._config.interrupt_line = 0


class TtyForgetsByte(Mtty):
    """Loses the last bit of its scratch register."""

    def _load(self):
        super()._load()
        self._uarts[0]._registers[7] ^= 1


class TtyChanges(Changing, Mtty):
    def _save(self, target):
        self._uarts[0]._registers[6] = self.ask()  # which nobody can read
        return super()._save(target)


# --- oracle, whose state is a pattern of so many bytes ---


class OracleForgets(Oracle):
    def arc(self, current, target):
        stream = super().arc(current, target)
        if current == 4:
            self.sizes = Sizes(stop=255)
        return stream


class OracleInvents(Oracle):
    loaded = False

    def arc(self, current, target):
        stream = super().arc(current, target)
        self.loaded |= current == 4
        invents = self.loaded and isinstance(stream, OracleSaving)
        return Zeros(lambda: self.sizes, precopy=False) if invents else stream


class Zeros(OracleSaving):
    def peek(self, size):
        return bytes(len(super().peek(size)))


class OracleChanges(Changing, Oracle):
    def arc(self, current, target):
        if (current, target) == (1, 3) and self.ask() > 1:
            self.sizes = Sizes(stop=256 + self.asked)
        return super().arc(current, target)


# --- what somebody else has written ---


class GadgetForgets(Gadget):
    what = ""

    def load_part(self, name, data):
        if name != self.what:
            super().load_part(name, data)


class GadgetForgetsRegisters(GadgetForgets):
    what = "registers"


class GadgetForgetsMemory(GadgetForgets):
    what = "memory"


class GadgetForgetsTable(GadgetForgets):
    what = "table"


class GadgetForgetsInterrupt(GadgetForgets):
    what = "pending"


class GadgetForgetsConfig(Gadget):
    def load_part(self, name, data):
        super().load_part(name, data)
        if name == "config":
            self.config[LINE] = 0


class GadgetRepeats(Gadget):
    """Gives again what it was sent, and has loaded nothing of it but its registers."""

    alibi = b""

    def load(self, data):
        self.alibi = data
        self.registers[:] = data[:64]

    def save(self):
        return self.alibi or super().save()


class GadgetSavesNothing(Gadget):
    def save(self):
        return b""

    def load(self, data):
        pass


class GadgetChanges(Changing, Gadget):
    def save(self):
        return super().save() + bytes([self.ask()])

    def load(self, data):
        super().load(data[:-1])

    def stop_copy_size(self):
        return len(super().save()) + 1


class GadgetFailsToSave(Changing, Gadget):
    """Gives its state once."""

    def begin(self, *, precopy):
        if self.ask() > 1:
            raise IoctlError(errno.EIO, "it gives its state once")
        return super().begin(precopy=precopy)


class GadgetCannotBeReadBack(Gadget):
    """Refuses to save what it has loaded."""

    def begin(self, *, precopy):
        if self.resuming is not None:
            raise IoctlError(errno.EOPNOTSUPP, "it was loaded")
        return super().begin(precopy=precopy)


class GadgetSaysLess(Gadget):
    def save(self):
        return super().save() + bytes(BIG)

    def load(self, data):
        super().load(data[:-BIG])

    def stop_copy_size(self):
        return 100


class GadgetNeverEnds(Changing, Gadget):
    """Its state has no end when it is read again."""

    def begin(self, *, precopy):
        make = Saving if self.ask() == 1 else Endless
        return make(self.save, precopy=precopy)


class Endless(Saving):
    def peek(self, size):
        return super().peek(size) or bytes(size)

    def advance(self, size):
        if self.data:
            super().advance(size)


class GadgetHidesPages(Gadget):
    def mark(self, iova):
        pass


class GadgetForgetsMarks(Gadget):
    """Every second report has nothing in it."""

    reports = 0

    def log_report(self, iova, length, sink):
        self.reports += 1
        if self.reports % 2:
            super().log_report(iova, length, sink)
        else:
            self.written.clear()


class SlateForgetsMemory(Slate):
    def load_part(self, name, data):
        if name != "memory":
            super().load_part(name, data)


class SlateForgetsConfig(Slate):
    def load_config(self, data):
        yield from super().load_config(data)
        self.config.copy[LINE] = 0


class SlateForgetsInterrupt(Slate):
    def load_part(self, name, data):
        if name != "pending":
            super().load_part(name, data)


class GadgetPromisesMore(Gadget):
    """Speaks of a TiB that it still has, and has 5 bytes."""

    def begin(self, *, precopy):
        return Promising(self.save, precopy=precopy)


class Promising(Saving):
    def precopy_info(self):
        return 0, 1 << 40


class GadgetStaysInStopCopy(Gadget):
    """Does not stop any more when it was asked again."""

    def arc(self, current, target):
        if (current, target) == (STOP_COPY, STOP) and self.resuming is not None:
            raise IoctlError(errno.EIO, "it does not stop")
        return super().arc(current, target)


class GadgetWritesLate(Gadget):
    """Writes into memory when it is stopped."""

    def arc(self, current, target):
        stream = super().arc(current, target)
        return self.write_late() if (current, target) == (STOP_COPY, STOP) else stream

    def write_late(self):
        yield from self.host.rw_write(HIGH, b"late")
