# SPDX-License-Identifier: MIT
"""Count the recorded calls that involve each name of <linux/vfio.h>, and those of them that succeeded.

The conformance tests check every one of these answers bit for bit; here they are only counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfioemu.conformance.trace import Environment, load_environment
from vfioemu.trace import calls
from vfioemu.trace.decode import Capture
from vfioemu.trace.symbols import involved
from vfioemu.uapi.kinds import FdKind

_ADDRESS = 0x7000_0000


@dataclass(slots=True)
class Evidence:
    """Numbers of recorded calls by name: all, and those that succeeded."""

    steps: Counter[str] = field(default_factory=Counter)
    worked: Counter[str] = field(default_factory=Counter)


def collect(folders: Iterable[Path]) -> Evidence:
    """Count the calls of all trace files in these folders."""
    found = Evidence()
    for folder in folders:
        environment = load_environment(folder)
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                for names, worked in _scenario(json.loads(line), environment):
                    found.steps.update(names)
                    if worked:
                        found.worked.update(names)
    return found


def _scenario(scenario: Mapping[str, Any], environment: Environment) -> Iterator[tuple[set[str], bool]]:
    kinds = {fd: kind.partition(":")[0] for fd, kind in scenario["fds"].items()}
    for step in scenario["steps"]:
        op = step["op"]
        worked = step.get("ret", -1) != -1
        if op == "getdev":
            yield {"VFIO_GROUP_GET_DEVICE_FD"}, worked
        if op not in ("ioctl", "ioctlv") or kinds.get(step["fd"]) not in set(FdKind):
            continue
        kind = FdKind(kinds[step["fd"]])
        cmd = environment.command(step["cmd"])
        capture = Capture()
        argument = step.get("arg", _ADDRESS)
        if "in" in step and step.get("mode") not in ("null", "bad"):
            capture.read.put(_ADDRESS, bytes.fromhex(step["in"]))
        if "out" in step:
            capture.written.put(_ADDRESS, bytes.fromhex(step["out"]))
        event = calls.ioctl(kind, cmd, argument, capture, 0 if worked else -1)
        # CHECK_EXTENSION never fails; 0 means that the extension is not supported.
        said_no = event.ioctl == "VFIO_CHECK_EXTENSION" and not step["ret"]
        yield {event.ioctl}, worked
        yield involved(event) - {event.ioctl}, worked and not said_no
