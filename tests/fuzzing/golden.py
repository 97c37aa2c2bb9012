# SPDX-License-Identifier: MIT
"""Golden traces as programs: where the fuzzer begins is what the recording machine was asked.

A scenario's calls are kept, with their arguments and in their order; what a program cannot do (RLIMIT_MEMLOCK, a look at
memory) is left out. The devices are those of `layout.PLAYED` that are most like the recorded ones.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

from tests.fuzzing.client import VFIO_PCI
from tests.fuzzing.layout import WANTED
from tests.fuzzing.model.oracle import Command
from tests.fuzzing.program import MAX_DATA, Link, Op, Place, Step, Transfer
from tests.fuzzing.registers import DATA, LINKED_FD, PROTECTIONS
from vfioemu.uapi.registry import IOCTLS

Golden: TypeAlias = Mapping[str, Any]

VARIANTS: Final = {
    "mb0": 0,
    "mb1": 1,
    "mb2": 1,
    "mn0": WANTED.index(("nounmap", False)),
    "pp0": 3,
    "pp1": 4,
    "mspc0": WANTED.index(("migspc", False)),
    "mspc1": WANTED.index(("migspc", False)),
    "msc0": WANTED.index(("migsc", False)),
    "ml0": WANTED.index(("log", False)),
    "ms0": WANTED.index(("migs", False)),
    "msp0": WANTED.index(("migsp", False)),
    "mt1": WANTED.index(("mtty-1", False)),
    "mt2": WANTED.index(("mtty-2", False)),
    "pe0": WANTED.index(("e1000e", True)),
    "pn0": WANTED.index(("nvme", True)),
    "pv0": WANTED.index(("edu", True)),
}
"""The group of each recorded device; of any other, vfio-pci's."""
_VFIO_PCI: Final = WANTED.index((VFIO_PCI, True))
ACTS: Final = {
    "pin": Command.PIN,
    "unpin": Command.UNPIN,
    "dma_write": Command.RW,
    "dma_read": Command.RW,
    "notifications": Command.NOTIFY,
    "log_dirty": Command.LOG_DIRTY,
    "arcs": Command.ARCS,
    "fail_arc": Command.FAIL,
    "mig_sizes": Command.SIZES,
    "irq": Command.IRQ,
    "npinned": Command.NPINNED,
}
_ROWS: Final = {row.name: number for number, row in enumerate(IOCTLS)}
_MODES: Final = {
    "plain": Place.PLAIN,
    "tail": Place.TAIL,
    "ro": Place.READ_ONLY,
    "null": Place.NULL,
    "bad": Place.BAD,
}
_U64: Final = (1 << 64) - 1


def programs(folder: Path) -> Iterator[tuple[str, list[Step]]]:
    """The programs of all traces in a folder: ``family/name``, and the steps."""
    environment = json.loads((folder / "_env.json").read_bytes())
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            scenario = json.loads(line)
            yield (
                f"{scenario['family']}/{scenario['name']}",
                Converter(environment).convert(scenario["steps"]),
            )


class Converter:
    """Makes the program of one scenario.

    Args:
        environment: the traces' ``_env.json``.
    """

    def __init__(self, environment: Mapping[str, Any]) -> None:
        self._numbers = environment["ioctls"]
        self._fds: dict[str, int] = {}
        self._buffers: dict[str, int] = {}

    def convert(self, steps: list[Golden]) -> list[Step]:
        """Convert what can be converted."""
        made = []
        for step in steps:
            convert = self._steps.get(step["op"])
            if convert is not None:
                made.append(convert(self, step))
        return made

    def _fd(self, name: str) -> int:
        return self._fds.setdefault(name, len(self._fds) % LINKED_FD)

    def _buffer(self, name: str) -> int:
        return self._buffers.setdefault(name, DATA + 1 + len(self._buffers) % 64)

    # --- calls ---

    def _ioctl(self, step: Golden) -> Step:
        data = bytes.fromhex(step["in"])[:MAX_DATA]
        links = [Link(at, self._buffer(name), _int32(add)) for at, name, add in step.get("ptrs", ())]
        links += [Link(at, LINKED_FD + self._fd(name)) for at, name in step.get("fds", ())]
        place = _MODES.get(step.get("mode", "plain"), Place.PLAIN)
        new = step["newfd"][1] if "newfd" in step else step.get("retfd", "")
        return self._make(step, data, tuple(links), place, self._fd(new) if new else LINKED_FD - 1)

    def _ioctlv(self, step: Golden) -> Step:
        return self._make(step, struct.pack("<Q", step["arg"] & _U64), (), Place.PLAIN, LINKED_FD - 1)

    def _make(self, step: Golden, data: bytes, links: tuple[Link, ...], place: Place, new: int) -> Step:
        name, fd = step["cmd"], self._fd(step["fd"])
        if name in _ROWS:
            return Step(Op.IOCTL, (0, fd, _ROWS[name], place, new), data, links)
        number = int(name[1:], 16) if name.startswith("#") else self._numbers[name]
        return Step(Op.NUMBER, (0, fd, number), data, links)

    def _drv(self, step: Golden) -> Step:
        words = [word & _U64 for word in step["args"]]
        if step["act"] in ("dma_write", "dma_read"):
            words = [*words[:2], int(step["act"] == "dma_write"), *words[2:]]
        data = struct.pack(f"<{len(words)}Q", *words)
        return Step(Op.COMMAND, (0, self._fd(step["fd"]), ACTS[step["act"]]), data)

    def _transfer(self, step: Golden) -> Step:
        what = Transfer[step["op"].upper()]
        data = bytes.fromhex(step.get("hex", ""))[:MAX_DATA]
        size = min(step.get("len", len(data)), 0xFFFF)
        return Step(Op.TRANSFER, (0, self._fd(step["fd"]), what, size, step.get("off", 0) & _U64), data)

    # --- the rest ---

    def _container(self, step: Golden) -> Step:
        return Step(Op.CONTAINER, (0, self._fd(step["fd"])))

    def _group(self, step: Golden) -> Step:
        return Step(Op.GROUP, (0, self._fd(step["fd"]), _group_of(step["dev"])))

    def _getdev(self, step: Golden) -> Step:
        return Step(Op.DEVICE, (0, self._fd(step["fd"]), self._fd(step["group"]), _group_of(step["dev"])))

    def _close(self, step: Golden) -> Step:
        return Step(Op.CLOSE, (0, self._fd(step["fd"])))

    def _eventfd(self, step: Golden) -> Step:
        return Step(Op.EVENTFD, (0, self._fd(step["fd"])))

    def _nullfd(self, step: Golden) -> Step:
        return Step(Op.NULL, (0, self._fd(step["fd"])))

    def _alloc(self, step: Golden) -> Step:
        npages = min(-(-step["size"] // 4096), 256)
        return Step(Op.ALLOC, (0, self._buffer(step["buf"]), _protection(step), npages))

    def _protect(self, step: Golden) -> Step:
        return Step(Op.PROTECT, (0, self._buffer(step["buf"]), _protection(step), 0, 63))

    def _poke(self, step: Golden) -> Step:
        data = bytes.fromhex(step["hex"])[:MAX_DATA]
        return Step(Op.POKE, (0, self._buffer(step["buf"]), step["off"] & 0xFFFFFFFF), data)

    def _fill(self, step: Golden) -> Step:
        where = (step["off"] & 0xFFFFFFFF, min(step["len"], 1 << 20))
        return Step(Op.FILL, (0, self._buffer(step["buf"]), *where, step["byte"]))

    def _param(self, step: Golden) -> Step:
        return Step(Op.PARAMETER, (int(step["value"]) & 0xFFFF,))

    _steps: ClassVar[Mapping[str, Callable[["Converter", Golden], Step]]] = {
        "ioctl": _ioctl,
        "ioctlv": _ioctlv,
        "drv": _drv,
        "read": _transfer,
        "write": _transfer,
        "pread": _transfer,
        "pwrite": _transfer,
        "mmap": _transfer,
        "poll": _transfer,
        "container": _container,
        "group": _group,
        "getdev": _getdev,
        "close": _close,
        "eventfd": _eventfd,
        "nullfd": _nullfd,
        "alloc": _alloc,
        "protect": _protect,
        "poke": _poke,
        "fill": _fill,
        "param": _param,
    }


def _group_of(symbol: str) -> int:
    return VARIANTS.get(symbol, _VFIO_PCI)


def _protection(step: Golden) -> int:
    return PROTECTIONS.index(step.get("prot", "rw"))


def _int32(number: int) -> int:
    return max(-(1 << 31), min(number, (1 << 31) - 1))
