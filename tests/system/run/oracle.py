# SPDX-License-Identifier: MIT
"""The golden traces as input for the program that recorded them, and its output held against them.

probe/probe.c recorded the traces on a real kernel: one scenario in, one JSON object out. Here its input is made from the
traces themselves, so whoever has protocol/golden can let any implementation of /dev/vfio answer.
"""

import json
from pathlib import Path

from vfioemu.conformance.machine import machine_file
from vfioemu.daemon.config import load_machine
from vfioemu.uapi.profiles import DEFAULT, PROFILES

GOLDEN = Path(__file__).parents[3] / "protocol" / "golden"
UAPI = Path(__file__).parents[3] / "protocol" / "uapi" / f"{DEFAULT.name}.json"
RECORDED = [release for release in PROFILES if (GOLDEN / release).exists()]
"""The releases of which there are traces."""
OURS_TO_DIFFER = frozenset({"vmlck"})
"""VmLck of /proc/PID/status is the real kernel's, which locks nothing here."""


def golden(family, kernel=DEFAULT.name):
    """The recorded scenarios of a family."""
    with (GOLDEN / kernel / f"{family}.jsonl").open(encoding="ascii") as file:
        return [json.loads(line) for line in file]


def families(kernel=DEFAULT.name):
    """Their names."""
    return sorted(path.stem for path in (GOLDEN / kernel).glob("*.jsonl"))


def headers(folder):
    """What the probe needs beside an older system's <linux/vfio.h>: numbers, from the compiler's facts."""
    facts = json.loads(UAPI.read_text(encoding="ascii"))
    numbers = {}
    for header in facts["headers"].values():
        numbers.update(header["constants"])
    lines = ["#define IOMMUFD_TYPE 0x3b"]
    for name, number in numbers.items():
        if name.startswith(("IOMMU_", "VFIO_")) and isinstance(number, int):
            lines += [f"#ifndef {name}", f"#define {name} {number}ull", "#endif"]
    (folder / "linux").mkdir()
    (folder / "linux" / "iommufd.h").write_text("\n".join(lines) + "\n", encoding="ascii")


def devices(family):
    """The probe's DEVICES file: lines `symbol group name cdev`."""
    return "".join(
        f"{device.symbol} {device.group} {device.name} -1\n"
        for device in load_machine(machine_file(family)).devices
    )


def script(record):
    """A scenario as the probe reads it."""
    lines = [f"scenario {record['family']} {record['name']}"]
    lines += [" ".join(str(word) for word in _words(step)) for step in record["steps"]]
    return "\n".join([*lines, "end\n"])


def _words(step):
    op = step["op"]
    match op:
        case "alloc":
            yield from (op, step["buf"], step["size"], f"fill={step.get('fill', 0):02x}")
            yield f"prot={step.get('prot', 'rw')}"
            if "align" in step:
                yield f"align={step['align']}"
        case "protect":
            yield from (op, step["buf"], step["prot"])
        case "munmap":
            yield from (op, step["buf"])
        case "poke":
            yield from (op, step["buf"], step["off"], step["hex"])
        case "fill":
            yield from (op, step["buf"], step["off"], step["len"], f"{step['byte']:02x}")
        case "peek":
            yield from (op, step["buf"], step["off"], len(step["hex"]) // 2)
        case "group":
            yield from (op, step["fd"], step["dev"])
        case "getdev":
            yield from (op, step["fd"], step["group"], step["dev"])
        case "ioctl":
            yield from _ioctl(step)
        case "ioctlv":
            yield from (op, step["fd"], _command(step), step["arg"])
        case "drv":
            yield from (op, step["fd"], step["act"], *step["args"])
        case "read" | "pread":
            yield from (op, step["fd"], step["len"], *([step["off"]] if op == "pread" else []))
        case "write" | "pwrite":
            yield from (op, step["fd"], step["hex"] or "-", *([step["off"]] if op == "pwrite" else []))
        case "mmap":
            yield from (op, step["buf"], step["fd"], step["len"], step["prot"], step["off"])
        case "param":
            yield from (op, step["name"], step["value"])
        case "memlock":
            yield from (op, step["bytes"])
        case "vmlck":
            yield op
        case "container" | "close" | "poll" | "eventfd" | "nullfd" | "evread":
            yield from (op, step["fd"])
        case _:
            raise ValueError(f"no such step: {op}")


def _ioctl(step):
    yield from ("ioctl", step["fd"], _command(step), step["in"] or "-")
    if "mode" in step:
        yield f"mode={step['mode']}"
    for offset, buffer, add in step.get("ptrs", ()):
        yield f"p={offset}:{buffer}:{add}"
    for offset, fd in step.get("fds", ()):
        yield f"f={offset}:{fd}"
    if "newfd" in step:
        yield "nf={}:{}".format(*step["newfd"])
    if "retfd" in step:
        yield f"rf={step['retfd']}"
    for memory in step.get("mem", ()):
        yield f"w={memory['buf']}:{memory['off']}:{len(memory['hex']) // 2}"


def _command(step):
    return f"0x{step['cmd'][1:]}" if step["cmd"].startswith("#") else step["cmd"]


def compare(wanted, line):
    """The first difference between a scenario and what the probe recorded of it; None without one."""
    got = json.loads(line)
    name = f"{got.get('family')}/{got.get('name')}"
    if (got.get("family"), got.get("name")) != (wanted["family"], wanted["name"]):
        return f"{name} where {wanted['family']}/{wanted['name']} is due"
    if "steps" not in got:
        return f"{name}: the probe died: {got}"
    if len(got["steps"]) != len(wanted["steps"]):
        return f"{name}: {len(got['steps'])} steps of {len(wanted['steps'])}"
    for number, (want, step) in enumerate(zip(wanted["steps"], got["steps"], strict=True)):
        want, step = _essence(want), _essence(step)
        if want["op"] not in OURS_TO_DIFFER and want != step:
            return f"{name}: step {number}\n  expected {json.dumps(want)[:1500]}\n  got      {json.dumps(step)[:1500]}"
    return None


def _essence(step):
    """A step without what only one of the two forms has; every bit of memory counts, `care` masks or not."""
    step = {
        key: value
        for key, value in step.items()
        if key not in ("kernel_warn", "kind", "errno", "dev", "name")
    }
    if step["op"] == "alloc":
        step = {"fill": 0, "prot": "rw", **step}
    if step["op"] in ("ioctl", "ioctlv"):
        number = step.pop("nr", None)
        if number is not None and not step["cmd"].startswith("V"):
            step["cmd"] = f"#{number:x}"
    if "mem" in step:
        step["mem"] = [{key: memory[key] for key in ("buf", "off", "hex")} for memory in step["mem"]]
    return step
