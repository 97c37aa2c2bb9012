# SPDX-License-Identifier: MIT
"""What SET_IRQS does to a PCI function, told once more and in another way: as tables of what is allowed when.

It shares no code with vfioemu.devices.pci. A function has 1 INTx, 4 MSI and 8 MSI-X vectors, ERR and REQ.
"""

from dataclasses import dataclass, field

COUNTS = {0: 1, 1: 4, 2: 8, 3: 1, 4: 1}
NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32
OK = ""
BAD = "bad"
"""An fd that is open and no eventfd."""
CLOSED = "closed"


@dataclass
class Interrupts:
    """Attributes:
    on: which of INTx (0), MSI (1), MSI-X (2) is enabled.
    room: for how many vectors.
    heard: (index, vector) -> eventfd.
    silent: INTx is masked.
    unmasker: an eventfd unmasks INTx.
    rings: how often each eventfd was signalled.
    """

    on: int | None = None
    room: int = 0
    heard: dict = field(default_factory=dict)
    silent: bool = False
    unmasker: bool = False
    rings: dict = field(default_factory=dict)

    def ring(self, index, vector):
        if (index, vector) in self.heard:
            name = self.heard[index, vector]
            self.rings[name] = self.rings.get(name, 0) + 1

    def header(self, index, flags, start, count, room):
        """The checks before the driver's: what errno, if any; `room` is how many bytes of data there are."""
        if index > 4 or count >= 0xFFFFFFFF - start or flags >> 6:
            return "EINVAL"
        if start >= COUNTS[index] or start + count > COUNTS[index]:
            return "EINVAL"
        width = {NONE: 0, BOOL: 1, EVENTFD: 4}.get(flags & 7)
        if width is None or room < width * count:
            return "EINVAL"
        return OK

    def call(self, index, flags, start, count, data):
        """The driver's part; `data` are bools, or names of eventfds, None, BAD or CLOSED."""
        kind, action = flags & 7, flags & 0x38
        if index == 0 and action in (MASK, UNMASK):
            return self._mask(action, kind, count, data)
        if action != TRIGGER:
            return "ENOTTY"
        if index > 2:
            return self._single(index, kind, count, data)
        if kind == NONE and count == 0 and self.on == index:
            self._off()
            return OK
        if self.on not in (None, index) or (index == 0 and count != 1):
            return "EINVAL"
        if kind != EVENTFD:
            if self.on is None:
                return "EINVAL"
            for i in range(count):
                if kind == NONE or data[i]:
                    self.ring(index, start + i)
            return OK
        return self._give(index, start, count, data)

    def _give(self, index, start, count, data):
        fresh = self.on is None
        if fresh and index and start + count == 0:
            return "ERANGE"
        if index == 0:
            if (refused := _refused(data[0])) != OK:
                return refused
        elif fresh:
            self.room = start + count
        if fresh:
            self.on, self.silent = index, False
        for i, name in enumerate(data):
            self.heard.pop((index, start + i), None)
            refused = OK if name is None else _refused(name)
            if name is not None and index == 1 and start + i >= self.room:
                refused = "EINVAL"
            if refused != OK:
                for j in range(i):
                    self.heard.pop((index, start + j), None)
                if fresh:
                    self._off()
                return refused
            if name is not None:
                self.heard[index, start + i] = name
        return OK

    def _mask(self, action, kind, count, data):
        if self.on != 0 or count != 1:
            return "EINVAL"
        if kind == EVENTFD:
            if action == MASK:
                return "ENOTTY"
            if data[0] is None:
                self.unmasker = False
                return OK
            if (refused := _refused(data[0])) != OK:
                return refused
            if self.unmasker:
                return "EBUSY"
            self.unmasker = True
            return OK
        if kind == NONE or data[0]:
            self.silent = action == MASK
        return OK

    def _single(self, index, kind, count, data):
        if kind == NONE:
            if (index, 0) not in self.heard:
                return "EINVAL"
            if count:
                self.ring(index, 0)
            else:
                del self.heard[index, 0]
            return OK
        if not count:
            return "EINVAL"
        if kind == BOOL:
            if data[0]:
                self.ring(index, 0)
        elif data[0] is None:
            self.heard.pop((index, 0), None)
        elif (refused := _refused(data[0])) != OK:
            return refused
        else:
            self.heard[index, 0] = data[0]
        return OK

    def _off(self):
        for key in [key for key in self.heard if key[0] == self.on]:
            del self.heard[key]
        self.on, self.room, self.silent, self.unmasker = None, 0, False, False


def _refused(name):
    return {BAD: "EINVAL", CLOSED: "EBADF"}.get(name, OK)
