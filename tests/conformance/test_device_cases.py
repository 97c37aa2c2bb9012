# SPDX-License-Identifier: MIT
"""Groups, devices and migration, call by call: one row per rule of the kernel's, on the recording machine."""

import struct

import pytest

from tests.conformance.recorder import PAGE, Client
from tests.releases import every_release

GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)


class Device(Client):
    """A client of one device."""

    def __init__(self, symbol, **more):
        super().__init__(symbol, **more)
        self.fd = self.devices[symbol]

    def feature(self, flags, payload=b"", argsz=None, fd=None):
        argsz = 8 + len(payload) if argsz is None else argsz
        answer = self.call(self.fd if fd is None else fd, 0x3B75, struct.pack("<2I", argsz, flags) + payload)
        self.payload = self.out[8:]
        return answer

    def go(self, state):
        """(errno name or 0, data fd)."""
        answer = self.feature(SET | 2, struct.pack("<Ii", state, 0x55))
        told, fd = struct.unpack("<Ii", self.payload)
        assert told == state
        return answer, fd

    @property
    def state(self):
        assert self.feature(GET | 2, bytes(8)) == 0
        state, fd = struct.unpack("<Ii", self.payload)
        assert fd == -1
        return state

    def take(self, fd, size=4096):
        result = self.process.read(fd, self.data, size)
        return result.err or self.memory.peek(self.data, result.ret)

    def put(self, fd, data):
        self.memory.poke(self.data, data)
        result = self.process.write(fd, self.data, len(data))
        return result.err or result.ret

    def irqs(self, index, flags, start=0, count=1, data=b"", argsz=None):
        argsz = 20 + len(data) if argsz is None else argsz
        return self.call(self.fd, 0x3B6E, struct.pack("<5I", argsz, flags, index, start, count) + data)

    def fds(self, index, *fds, start=0):
        return self.irqs(index, EVENTFD | TRIGGER, start, len(fds), struct.pack(f"<{len(fds)}i", *fds))

    def heard(self, eventfd):
        result = self.process.read(eventfd, self.data, 8)
        return 0 if result.err else int.from_bytes(self.memory.peek(self.data, 8), "little")

    def start(self, *ranges, page=PAGE, count=None, at=None):
        self.memory.poke(self.data, b"".join(struct.pack("<2Q", *pair) for pair in ranges))
        count = len(ranges) if count is None else count
        return self.feature(SET | 6, struct.pack("<Q2IQ", page, count, 0, self.data if at is None else at))

    def report(self, iova, length, page=PAGE, at=None):
        payload = struct.pack("<4Q", iova, length, page, self.bitmap if at is None else at)
        return self.feature(GET | 8, payload)

    def hit(self, iova, length):
        words = [5, iova, length, *[0] * 5]
        self.memory.poke(self.argument, struct.pack("<8Q", *words))
        assert self.process.pwrite(self.fd, self.argument, 64, 0).ret == 64


def test_groups():
    client = Client("mb0", type=0)
    group = client.groups["mb0"]
    null = client.process.null()
    assert client.process.open(f"/dev/vfio/{client.specs['mb0'].group}").err == "EBUSY"
    assert client.value(group, 0x3BFF, 0) == "ENOTTY"
    assert client.call(group, 0x3B67, struct.pack("<2I", 7, 0)) == "EINVAL"
    assert client.call(group, 0x3B67, struct.pack("<2I", 8, 9)) == 0
    assert client.out == struct.pack("<2I", 8, 3)
    for fd, answer in ((9999, "EBADF"), (null, "EINVAL"), (client.container, "EINVAL")):
        assert client.call(group, 0x3B68, struct.pack("<i", fd)) == answer
    assert client.value(group, 0x3B68, client.guard) == "EFAULT"
    assert client.value(group, 0x3B69, 0) == 0
    assert client.value(group, 0x3B69, 0) == "EINVAL"
    assert client.call(group, 0x3B67, struct.pack("<2I", 8, 9)) == 0
    assert client.out == struct.pack("<2I", 8, 1)
    for fd, answer in ((9999, "EBADF"), (null, "EBADFD"), (group, "EBADFD")):
        assert client.call(group, 0x3B68, struct.pack("<i", fd)) == answer
    assert client.value(group, 0x3B6A, client.guard) == "EFAULT"
    assert client.call(group, 0x3B6A, b"nobody\0") == "ENODEV"
    assert client.open_device("mb0") == "EINVAL"


def test_a_group_is_busy_as_long_as_a_device_is_open():
    client = Client("mb0")
    path = f"/dev/vfio/{client.specs['mb0'].group}"
    second = client.open_device("mb0")
    client.process.close(client.groups["mb0"])
    assert client.process.open(path).err == "EBUSY"
    client.process.close(client.container)
    assert client.call(second, 0x3B6B, struct.pack("<4I", 16, 0, 0, 0)) == 0
    assert client.process.close(second).ret == 0
    assert client.process.close(second - 1).ret == 0
    group = client.process.open(path).ret
    assert client.call(group, 0x3B67, struct.pack("<2I", 8, 0)) == 0
    assert client.out == struct.pack("<2I", 8, 1)


def test_names_of_pci_functions():
    client = Client("pv0")
    name = client.specs["pv0"].name
    for text, answer in (
        (f"{name} x", "EINVAL"),
        (f"{name} vf_token=short", "EINVAL"),
        (f"{name} vf_token=00112233-4455-6677-8899-aabbccddeeff", "EINVAL"),
        (f"{name}x", "ENODEV"),
        (name[:-1], "ENODEV"),
        (name[1:], "ENODEV"),
        ("a" * 4095, "ENODEV"),
        ("a" * 4096, "EINVAL"),
    ):
        assert client.call(client.groups["pv0"], 0x3B6A, text.encode() + b"\0") == answer
    assert client.call(client.groups["pv0"], 0x3B6A, f"{name}  ".encode() + b"\0") > 0


def test_a_group_that_another_driver_shares():
    client = Client()
    assert client.join("px0") == "EPERM"
    assert client.call(client.groups["px0"], 0x3B67, struct.pack("<2I", 8, 7)) == 0
    assert client.out == struct.pack("<2I", 8, 0)


@pytest.mark.parametrize(("symbol", "shown"), [("mb0", 16), ("mt1", 16), ("pv0", 24), ("pe0", 24)])
def test_device_info(symbol, shown):
    client = Device(symbol)
    for argsz, length in ((15, None), (16, 16), (20, min(20, shown)), (24, shown), (99, shown)):
        answer = client.call(client.fd, 0x3B6B, struct.pack("<I", argsz) + b"\xee" * 28)
        assert answer == ("EINVAL" if length is None else 0)
        if length is not None:
            assert client.out[length:] == b"\xee" * (32 - length)
            assert b"\xee" not in client.out[4:length]


def test_regions_that_are_not_there():
    for symbol, flags in (("pv0", 0), ("mb0", 0), ("mt1", 3)):
        client = Device(symbol)
        assert client.call(client.fd, 0x3B6C, struct.pack("<4I2Q", 32, 0, 5, 0, 7, 7)) == 0
        assert client.out == struct.pack("<4I2Q", 32, flags, 5, 0, 0, 5 << 40)
        assert client.call(client.fd, 0x3B6C, struct.pack("<4I2Q", 32, 0, 9, 0, 7, 7)) == "EINVAL"
        assert client.call(client.fd, 0x3B6C, struct.pack("<4I2Q", 31, 0, 0, 0, 7, 7)) == "EINVAL"
    for symbol in ("pv0", "pe0", "pn0", "pg0"):
        client = Device(symbol)
        assert client.call(client.fd, 0x3B6C, struct.pack("<4I2Q", 32, 0, 8, 0, 7, 7)) == "EINVAL"
        assert client.process.pread(client.fd, client.data, 4, 9 << 40).err == "EINVAL"
        assert client.process.pwrite(client.fd, client.data, 4, 6 << 40).err == "EINVAL"
        assert client.process.mmap(client.fd, PAGE, "rw", 7 << 40).err == "EINVAL"


def test_interrupts_of_a_function():
    client = Device("pe0")
    events = [client.process.eventfd() for _ in range(5)]
    for header in ((19, TRIGGER | NONE, 0, 0, 1), (20, TRIGGER | NONE, 5, 0, 1), (20, 64 | NONE, 0, 0, 1)):
        assert client.call(client.fd, 0x3B6E, struct.pack("<5I", *header)) == "EINVAL"
    for flags in (TRIGGER, TRIGGER | NONE | BOOL, TRIGGER | 7):
        assert client.irqs(MSIX, flags) == "EINVAL"
    for start, count in ((0, 6), (5, 0), (4, 0xFFFFFFFC), (4, 0xFFFFFFFB)):
        assert client.irqs(MSIX, TRIGGER | NONE, start, count) == "EINVAL"
    assert client.irqs(MSIX, TRIGGER | EVENTFD, 0, 5, bytes(19)) == "EINVAL"
    assert client.irqs(MSIX, TRIGGER | NONE) == "EINVAL"
    assert client.irqs(MSIX, TRIGGER | EVENTFD, 0, 0) == "ERANGE"
    assert client.fds(MSIX, *events) == 0
    assert client.irqs(MSIX, TRIGGER | NONE, 0, 5) == 0
    assert client.irqs(MSIX, TRIGGER | BOOL, 0, 5, bytes([1, 0, 0, 1, 0])) == 0
    assert [client.heard(event) for event in events] == [2, 1, 1, 2, 1]
    assert client.fds(MSIX, -1, start=1) == client.irqs(MSIX, TRIGGER | NONE, 0, 5) == 0
    assert [client.heard(event) for event in events] == [1, 0, 1, 1, 1]
    assert client.fds(INTX, events[0]) == client.fds(MSI, events[0]) == "EINVAL"
    for flags in (MASK | NONE, MASK | TRIGGER | NONE, NONE):
        assert client.irqs(MSIX, flags) == "ENOTTY"
    assert client.fds(MSIX, client.process.null()) == "EINVAL"
    assert client.fds(MSIX, 9999) == "EBADF"
    assert client.irqs(MSIX, TRIGGER | NONE, 0, 0) == 0
    assert client.irqs(MSIX, TRIGGER | NONE, 0, 0) == "EINVAL"
    assert client.irqs(ERR, TRIGGER | NONE) == "EINVAL"
    assert client.fds(ERR, events[0]) == client.fds(REQ, events[1]) == 0
    assert client.irqs(ERR, TRIGGER | NONE) == client.irqs(REQ, TRIGGER | BOOL, 0, 1, b"\1") == 0
    assert [client.heard(event) for event in events[:2]] == [1, 1]
    assert client.irqs(ERR, TRIGGER | NONE, 0, 0) == 0
    assert client.irqs(ERR, TRIGGER | NONE, 0, 0) == client.irqs(ERR, TRIGGER | EVENTFD, 0, 0) == "EINVAL"
    assert client.irqs(ERR, MASK | NONE) == "ENOTTY"


def test_interrupts_that_a_function_has_not():
    client = Device("pv0")
    for index in (MSIX, ERR):
        assert client.irqs(index, TRIGGER | NONE, 0, 0) == "EINVAL"
    assert client.call(client.fd, 0x3B6D, struct.pack("<4I", 16, 0, MSIX, 7)) == 0
    assert client.out == struct.pack("<4I", 16, 9, MSIX, 0)
    assert client.call(client.fd, 0x3B6D, struct.pack("<4I", 16, 0, ERR, 7)) == "EINVAL"
    assert client.value(client.fd, 0x3B6F, 0) == "EINVAL"
    assert Device("mb0").value(client.fd, 0x3B6F, 0) == 0


@every_release
def test_checks_that_all_features_share(profile):
    client = Device("mspc0", profile=profile.name)
    assert client.feature(GET | 1, bytes(8), argsz=7) == "EINVAL"
    assert client.feature(1 << 19 | GET | 1, bytes(8)) == "EINVAL"
    assert client.feature(GET | SET | 2, bytes(8)) == "EINVAL"
    assert (
        client.feature(PROBE | GET | SET | 2)
        == client.feature(PROBE | 1)
        == client.feature(PROBE | GET | 1)
        == 0
    )
    assert client.feature(PROBE | GET | SET | 1) == client.feature(SET | 1, bytes(8)) == "EINVAL"
    assert client.feature(1, bytes(8)) == client.feature(GET | 1, bytes(7)) == "EINVAL"
    assert client.feature(GET | 1, bytes(8)) == client.feature(GET | 1, bytes(8), argsz=4096) == 0
    assert client.payload == struct.pack("<Q", 7)
    for number in (0, 3, 5, 10, 13, 100, 0xFFFF):
        assert client.feature(GET | number, bytes(64)) == client.feature(PROBE | number) == "ENOTTY"
    basic = Device("mb0", profile=profile.name)
    for number in (1, 2, 6, 7, 8, 9):
        for flags in (0, GET, SET, PROBE | GET | SET):
            assert basic.feature(flags | number) == "ENOTTY"
    v2 = profile.has("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")
    assert (
        basic.feature(SET | 12)
        == Device("ms0", profile=profile.name).feature(PROBE | 12)
        == ("EINVAL" if v2 else "ENOTTY")
    )
    assert client.feature(SET | 12) == (0 if v2 else "ENOTTY")
    assert client.feature(GET | 12, bytes(8)) == ("EINVAL" if v2 else "ENOTTY")


def test_a_migration_of_all_states():
    client = Device("mspc0")
    assert client.state == RUNNING
    assert client.go(RUNNING) == (0, -1)
    for state in (ERROR, 8, 0xFFFFFFFF):
        assert client.go(state) == ("EINVAL", -1)
    answer, saving = client.go(STOP_COPY)
    assert (answer, client.state) == (0, STOP_COPY)
    for state in (PRE_COPY, PRE_COPY_P2P):
        assert client.go(state) == ("EINVAL", -1)
    assert client.state == STOP_COPY
    data = client.take(saving)
    assert (len(data), client.take(saving), client.take(saving)) == (256, b"", b"")
    assert client.put(saving, b"x") == "EBADF"
    assert client.go(STOP) == (0, -1)
    assert client.take(saving) == "ENODEV"
    answer, resuming = client.go(RESUMING)
    assert (answer, client.take(resuming), client.put(resuming, data[:100])) == (0, "EBADF", 100)
    assert client.go(RUNNING) == ("EINVAL", -1)
    assert client.state == ERROR
    assert client.go(ERROR) == (0, -1)
    assert client.go(RUNNING) == client.go(STOP) == ("EINVAL", -1)
    assert client.value(client.fd, 0x3B6F, 0) == 0
    assert (client.state, client.put(resuming, data)) == (RUNNING, "ENODEV")


@every_release
def test_pre_copy(profile):
    client = Device("mspc0", profile=profile.name)
    answer, saving = client.go(PRE_COPY)
    ask = struct.pack("<2I2Q", 24, 0xFF, 9, 9)
    assert client.call(saving, 0x3B79, struct.pack("<I", 23) + ask[4:]) == "EINVAL"
    assert client.call(saving, 0x3B7A, ask) == "ENOTTY"
    assert client.call(saving, 0x3B79, ask) == answer == 0
    assert client.out[8:] == struct.pack("<2Q", 96, 64)
    assert (len(client.take(saving)), client.take(saving), client.take(saving, 0)) == (
        160,
        "ENOMSG",
        "ENOMSG",
    )
    assert client.go(STOP_COPY) == (0, -1)
    assert client.call(saving, 0x3B79, ask) == "EINVAL"
    assert (len(client.take(saving)), client.take(saving)) == (256, b"")
    answer, resuming = client.go(RESUMING)
    assert (answer, client.take(saving)) == (0, "ENODEV")
    assert client.call(resuming, 0x3B79, ask) == "ENOTTY"
    for fd in (saving, resuming):
        assert client.process.pread(fd, client.data, 4, 0).err == "ESPIPE"
        assert client.process.pwrite(fd, client.data, 4, 0).err == "ESPIPE"


def test_states_that_a_device_has_not():
    client = Device("ms0")
    for state in (RUNNING_P2P, PRE_COPY, PRE_COPY_P2P):
        assert client.go(state) == ("EINVAL", -1)
    assert client.state == RUNNING


def test_a_state_that_cannot_be_told_is_entered():
    client = Device("mspc0")
    client.memory.poke(client.argument, struct.pack("<2IIi", 16, SET | 2, STOP_COPY, -1))
    client.memory.protect(client.argument, PAGE, "r")
    assert client.value(client.fd, 0x3B75, client.argument) == "EFAULT"
    client.memory.protect(client.argument, PAGE, "rw")
    assert client.state == STOP_COPY


def test_logging():
    client = Device("ml0")
    assert client.report(0, PAGE) == "EINVAL"
    assert client.start(count=0) == "EINVAL"
    assert client.start(count=257) == "E2BIG"
    assert client.start(count=1, at=client.guard) == "EFAULT"
    for pair in ((0x800, PAGE), (0, 0x800)):
        assert client.start(pair) == "EINVAL"
    assert client.start(((1 << 64) - PAGE, PAGE)) == "EOVERFLOW"
    assert client.start((0, 2 * PAGE), (PAGE, PAGE)) == client.start((0, PAGE), (0, PAGE)) == "EINVAL"
    assert client.start(*((n * PAGE, PAGE) for n in range(256))) == 0
    assert client.start((0, PAGE)) == "EINVAL"
    for page in (0, 0x800, 0x3000):
        assert client.report(0, PAGE, page) == "EINVAL"
    assert client.report((1 << 64) - PAGE, PAGE) == "EOVERFLOW"
    client.memory.poke(client.bitmap, b"\x55" * 16)
    client.hit(PAGE, 1)
    assert client.report(0, 64 * PAGE) == client.report(0, 64 * PAGE) == 0
    assert client.memory.peek(client.bitmap, 16) == b"\x57" + b"\x55" * 15
    client.memory.poke(client.bitmap, bytes(16))
    client.hit(17 * PAGE, 1)
    assert client.report(0, 64 * PAGE, 16 * PAGE, client.bitmap + 3) == 0
    assert client.memory.peek(client.bitmap, 8) == b"\0\0\0\2\0\0\0\0"
    client.hit(0, 1)
    assert client.report(0, 64 * PAGE, at=client.guard) == client.report(0, 64 * PAGE) == 0
    assert client.memory.peek(client.bitmap, 8) == b"\0\0\0\2\0\0\0\0"
    assert client.feature(SET | 7) == client.feature(SET | 7) == 0
    assert client.report(0, PAGE) == "EINVAL"
    assert client.start((0, 32 * PAGE), page=16 * PAGE) == 0
    client.hit(0, 1)
    client.memory.poke(client.bitmap, bytes(16))
    assert client.report(0, 64 * PAGE) == 0
    assert client.memory.peek(client.bitmap, 8) == b"\xff\xff\0\0\0\0\0\0"
