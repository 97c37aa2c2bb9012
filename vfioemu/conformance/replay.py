# SPDX-License-Identifier: MIT
"""Replay one scenario on a system, and compare every bit of every answer.

Each step is made exactly as the recording program made it: the argument of an ioctl lies in a 32 KiB area of canaries, and
`out` is the part of it that changed. An answer is converted to the form of the golden step, so a difference is a difference of
two small dictionaries.
"""

import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from vfioemu.conformance.system import System
from vfioemu.conformance.trace import Environment, Scenario, Step
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.testing.process import Result, errno_name

Answer = dict[str, Any]

ANSWERS: Final = (
    "ret",
    "err",
    "out",
    "mem",
    "data",
    "ranges",
    "arcs",
    "revents",
    "newfd",
    "retfd",
    "count",
    "kb",
)
"""Fields of a step that are the kernel's answer. `kernel_warn` is not compared: WARN_ONCE fires once per boot."""

CANARY: Final = 0xCC
ARGUMENT_SIZE: Final = 32 << 10
SCRATCH_SIZE: Final = 64 << 10

WINDOW: Final = 0x1000
"""Offset in region 0 at which an oracle device leaves data of its answers."""
COMMAND: Final = struct.Struct("<8Q")
ACTS: Final[Mapping[str, tuple[int, int]]] = {
    "pin": (1, 3),
    "unpin": (2, 2),
    "dma_write": (3, 3),
    "dma_read": (3, 2),
    "notifications": (4, 0),
    "log_dirty": (5, 2),
    "arcs": (6, 0),
    "fail_arc": (7, 2),
    "mig_sizes": (8, 3),
    "irq": (9, 2),
    "npinned": (10, 0),
}
"""Commands of an oracle device: command number and number of arguments."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer that differs from the kernel's.

    Attributes:
        step: its number in the scenario, from 0; -1 after the end.
        made: the step.
        expected: the differing fields of the kernel's answer.
        got: the same fields of ours; a field may be absent on either side.
    """

    step: int
    made: Step
    expected: Answer
    got: Answer


def expected_answer(step: Step) -> Answer:
    """Return the kernel's answer in a golden step, without fields that are not compared."""
    answer = {key: step[key] for key in ANSWERS if key in step}
    if "mem" in answer:
        answer["mem"] = [{key: entry[key] for key in ("buf", "off", "hex")} for entry in answer["mem"]]
    if step["op"] == "peek":
        answer["hex"] = step["hex"]
    return answer


def compare(number: int, step: Step, got: Answer) -> Difference | None:
    """Compare an answer with the golden one; None if they are equal."""
    want = expected_answer(step)
    if want == got:
        return None
    keys = [key for key in {**want, **got} if want.get(key) != got.get(key) or (key in want) != (key in got)]
    return Difference(
        number, step, {k: want[k] for k in keys if k in want}, {k: got[k] for k in keys if k in got}
    )


class Replay:
    """One scenario on one system, from its first step to the end of the process.

    Args:
        system: the process and its machine.
        environment: of the trace file.
    """

    def __init__(self, system: System, environment: Environment) -> None:
        self._system = system
        self._environment = environment
        self._fds: dict[str, int] = {}
        self._buffers: dict[str, tuple[int, int]] = {}
        self._argument = system.allocate(ARGUMENT_SIZE, "rw", CANARY, PAGE_SIZE)
        self._scratch = system.allocate(SCRATCH_SIZE, "rw", 0, PAGE_SIZE)

    async def run(self, scenario: Scenario) -> list[Difference]:
        """Make all steps; return every difference."""
        differences = []
        for number, step in enumerate(scenario.steps):
            got = await self._steps[step["op"]](self, step)
            if (difference := compare(number, step, got)) is not None:
                differences.append(difference)
        if left := await self._system.leave():
            end: Step = {"op": "exit"}
            differences.append(Difference(len(scenario.steps), end, {"left": []}, {"left": list(left)}))
        return differences

    # --- the process's own memory ---

    async def _alloc(self, step: Step) -> Answer:
        size = step["size"]
        address = self._system.allocate(
            size, step.get("prot", "rw"), step.get("fill", 0), step.get("align") or PAGE_SIZE
        )
        self._buffers[step["buf"]] = (address, size)
        return {}

    async def _protect(self, step: Step) -> Answer:
        self._system.protect(*self._buffers[step["buf"]], step["prot"])
        return {}

    async def _munmap(self, step: Step) -> Answer:
        self._system.unmap(*self._buffers[step["buf"]])
        return {}

    async def _poke(self, step: Step) -> Answer:
        self._system.poke(self._buffers[step["buf"]][0] + step["off"], bytes.fromhex(step["hex"]))
        return {}

    async def _fill(self, step: Step) -> Answer:
        address = self._buffers[step["buf"]][0] + step["off"]
        self._system.poke(address, bytes([step["byte"]]) * step["len"])
        return {}

    async def _peek(self, step: Step) -> Answer:
        address = self._buffers[step["buf"]][0] + step["off"]
        return {"hex": self._system.peek(address, len(step["hex"]) // 2).hex()}

    # --- opening and closing ---

    async def _container(self, step: Step) -> Answer:
        return self._opened(step["fd"], await self._system.open("/dev/vfio/vfio"))

    async def _group(self, step: Step) -> Answer:
        device = self._environment.devices[step["dev"]]
        return self._opened(step["fd"], await self._system.open(f"/dev/vfio/{device.group}"))

    async def _getdev(self, step: Step) -> Answer:
        name = self._environment.devices[step["dev"]].name.encode() + b"\0"
        self._system.poke(self._scratch, name)
        command = self._environment.ioctls["VFIO_GROUP_GET_DEVICE_FD"]
        return self._opened(
            step["fd"], await self._system.ioctl(self._fd(step["group"]), command, self._scratch)
        )

    async def _close(self, step: Step) -> Answer:
        fd = self._fds.pop(step["fd"], -1)
        return _answer(await self._system.close(fd))

    async def _eventfd(self, step: Step) -> Answer:
        self._fds[step["fd"]] = self._system.eventfd()
        return {}

    async def _nullfd(self, step: Step) -> Answer:
        self._fds[step["fd"]] = self._system.null()
        return {}

    # --- calls ---

    async def _ioctlv(self, step: Step) -> Answer:
        command = self._environment.command(step["cmd"])
        return _answer(await self._system.ioctl(self._fd(step["fd"]), command, step["arg"]))

    async def _ioctl(self, step: Step) -> Answer:
        payload = bytearray.fromhex(step["in"])
        blanks = []
        for offset, name, add in step.get("ptrs", ()):
            address = (self._buffers[name][0] + add) & 0xFFFFFFFFFFFFFFFF
            payload[offset : offset + 8] = address.to_bytes(8, "little")
            blanks.append((offset, 8))
        for offset, name in step.get("fds", ()):
            payload[offset : offset + 4] = self._fd(name).to_bytes(4, "little", signed=True)
            blanks.append((offset, 4))
        mode = step.get("mode", "plain")
        start = ARGUMENT_SIZE - len(payload) if mode == "tail" else 0
        sent = bytearray([CANARY]) * ARGUMENT_SIZE
        sent[start : start + len(payload)] = payload
        self._system.poke(self._argument, sent)
        if mode == "ro":
            self._system.protect(self._argument, ARGUMENT_SIZE, "r")
        pointer = {"null": 0, "bad": self._argument + ARGUMENT_SIZE}.get(mode, self._argument + start)
        command = self._environment.command(step["cmd"])
        result = await self._system.ioctl(self._fd(step["fd"]), command, pointer)
        if mode == "ro":
            self._system.protect(self._argument, ARGUMENT_SIZE, "rw")
        area = bytearray(self._system.peek(self._argument, ARGUMENT_SIZE))
        answer: Answer = {}
        if "retfd" in step and result.ret >= 0:
            self._fds[step["retfd"]] = result.ret
            answer["retfd"] = step["retfd"]
            result = Result(0)
        answer |= _answer(result)
        if "newfd" in step:
            offset, name = step["newfd"]
            self._new_fd(name, result, area, sent, start, offset, answer)
        if (out := _changed(area, sent, start, len(payload), blanks)) is not None:
            answer["out"] = out.hex()
        if "mem" in step:
            answer["mem"] = [self._watch(entry) for entry in step["mem"]]
        return answer

    def _new_fd(
        self,
        name: str,
        result: Result,
        area: bytearray,
        sent: bytearray,
        start: int,
        offset: int,
        answer: Answer,
    ) -> None:
        """Note the fd that the call wrote into its argument, and blank it out for the comparison."""
        place = slice(start + offset, start + offset + 4)
        number = int.from_bytes(area[place], "little", signed=True)
        if result.ret >= 0 and number >= 0 and area[place] != sent[place]:
            self._fds[name] = number
            answer["newfd"] = [offset, name]
            area[place] = bytes(4)

    def _watch(self, entry: Mapping[str, Any]) -> Answer:
        address = self._buffers[entry["buf"]][0] + entry["off"]
        found = self._system.peek(address, len(entry["hex"]) // 2)
        return {"buf": entry["buf"], "off": entry["off"], "hex": found.hex()}

    async def _read(self, step: Step) -> Answer:
        result = await self._system.read(self._fd(step["fd"]), self._scratch, step["len"])
        return self._read_answer(result)

    async def _pread(self, step: Step) -> Answer:
        fd = self._fd(step["fd"])
        result = await self._system.pread(fd, self._scratch, step["len"], step["off"])
        return self._read_answer(result)

    async def _write(self, step: Step) -> Answer:
        data = bytes.fromhex(step["hex"])
        self._system.poke(self._scratch, data)
        return _answer(await self._system.write(self._fd(step["fd"]), self._scratch, len(data)))

    async def _pwrite(self, step: Step) -> Answer:
        data = bytes.fromhex(step["hex"])
        self._system.poke(self._scratch, data)
        fd = self._fd(step["fd"])
        return _answer(await self._system.pwrite(fd, self._scratch, len(data), step["off"]))

    async def _mmap(self, step: Step) -> Answer:
        fd = self._fd(step["fd"])
        result, address = await self._system.mmap(fd, step["len"], step["prot"], step["off"])
        if result.err is None:
            self._buffers[step["buf"]] = (address, step["len"])
        return _answer(result)

    async def _poll(self, step: Step) -> Answer:
        revents = await self._system.poll(self._fd(step["fd"]))
        return {"revents": revents, "ret": int(bool(revents))}

    async def _evread(self, step: Step) -> Answer:
        self._system.poke(self._scratch, bytes(8))
        result = await self._system.read(self._fd(step["fd"]), self._scratch, 8)
        count = int.from_bytes(self._system.peek(self._scratch, 8), "little")
        return {"count": count} | _answer(Result(0) if result.ret >= 0 else result)

    # --- the machine ---

    async def _param(self, step: Step) -> Answer:
        return _answer(await self._system.set_parameter(step["name"], step["value"]))

    async def _memlock(self, step: Step) -> Answer:
        await self._system.limit_memlock(step["bytes"])
        return {}

    async def _vmlck(self, step: Step) -> Answer:
        return {"kb": await self._system.locked_kib()}

    async def _drv(self, step: Step) -> Answer:
        """Send a command to an oracle device through the command window of its region 0."""
        act, args = step["act"], list(step["args"])
        operation, count = ACTS[act]
        words = [operation, *args[:count], *[0] * (7 - count)]
        if act in ("dma_write", "dma_read"):
            words[3], words[4] = int(act == "dma_write"), words[3]
        fd = self._fd(step["fd"])
        self._system.poke(self._scratch, COMMAND.pack(*(word & 0xFFFFFFFFFFFFFFFF for word in words)))
        if (await self._system.pwrite(fd, self._scratch, COMMAND.size, 0)).ret != COMMAND.size:
            return {"ret": None}
        if (await self._system.pread(fd, self._scratch, COMMAND.size, 0)).ret != COMMAND.size:
            return {"ret": None}
        ret = int.from_bytes(self._system.peek(self._scratch, 8), "little", signed=True)
        answer: Answer = {"ret": ret}
        if ret < 0:
            answer["err"] = errno_name(-ret)
        if act == "dma_read" and ret == 0 and words[2] <= SCRATCH_SIZE:
            answer["data"] = (await self._from_window(fd, words[2])).hex()
        elif act == "notifications":
            data = memoryview(await self._from_window(fd, max(ret, 0) * 16)).cast("Q").tolist()
            answer["ranges"] = [list(pair) for pair in zip(data[::2], data[1::2], strict=True)]
        elif act == "arcs":
            data = list(await self._from_window(fd, max(ret, 0) * 2))
            answer["arcs"] = [list(pair) for pair in zip(data[::2], data[1::2], strict=True)]
        return answer

    async def _from_window(self, fd: int, size: int) -> bytes:
        if not size:
            return b""
        got = await self._system.pread(fd, self._scratch, size, WINDOW)
        return self._system.peek(self._scratch, max(0, got.ret))

    # --- helpers ---

    def _fd(self, name: str) -> int:
        return self._fds.get(name, -1)

    def _opened(self, name: str, result: Result) -> Answer:
        if result.ret < 0:
            return _answer(result)
        self._fds[name] = result.ret
        return {"ret": 0}

    def _read_answer(self, result: Result) -> Answer:
        answer = _answer(result)
        if result.ret > 0:
            answer["data"] = self._system.peek(self._scratch, result.ret).hex()
        return answer

    _steps: ClassVar[Mapping[str, Callable[["Replay", Step], Awaitable[Answer]]]] = {
        "alloc": _alloc,
        "protect": _protect,
        "munmap": _munmap,
        "poke": _poke,
        "fill": _fill,
        "peek": _peek,
        "container": _container,
        "group": _group,
        "getdev": _getdev,
        "close": _close,
        "eventfd": _eventfd,
        "nullfd": _nullfd,
        "ioctl": _ioctl,
        "ioctlv": _ioctlv,
        "read": _read,
        "write": _write,
        "pread": _pread,
        "pwrite": _pwrite,
        "mmap": _mmap,
        "poll": _poll,
        "evread": _evread,
        "param": _param,
        "memlock": _memlock,
        "vmlck": _vmlck,
        "drv": _drv,
    }


def _answer(result: Result) -> Answer:
    return {"ret": result.ret} if result.err is None else {"ret": -1, "err": result.err}


def _changed(
    area: bytearray, sent: bytearray, start: int, size: int, blanks: list[tuple[int, int]]
) -> bytearray | None:
    """Return the argument area from the payload to the last changed byte; None if nothing changed."""
    end = start + size
    difference = int.from_bytes(area[end:], "little") ^ int.from_bytes(sent[end:], "little")
    last = end + (difference.bit_length() + 7) // 8
    for offset, length in blanks:
        place = slice(start + offset, start + offset + length)
        if area[place] == sent[place]:
            area[place] = sent[place] = bytes(length)
    return None if area[start:last] == sent[start:last] else area[start:last]
