# SPDX-License-Identifier: MIT
"""Describe differences in words: the step, and where expected and got differ."""

import struct
from collections.abc import Iterator
from typing import Any, Final

from vfioemu.conformance.replay import Answer, Difference
from vfioemu.conformance.trace import Step

WORDS_SHOWN: Final = 8
"""Limit of the differing 64-bit words that are listed."""


def describe(difference: Difference) -> str:
    """Describe a difference in a few lines."""
    lines = [f"  step {difference.step}: {describe_step(difference.made)}"]
    for key in dict.fromkeys((*difference.expected, *difference.got)):
        lines += _describe_field(key, difference.expected, difference.got)
    return "\n".join(lines)


def describe_step(step: Step) -> str:
    """Describe a step in one line."""
    op = step["op"]
    if op == "ioctl":
        words = [
            f"{step['fd']} {step['cmd'].removeprefix('VFIO_')}",
            describe_payload(bytes.fromhex(step["in"])),
        ]
        words += [f"{key}={step[key]}" for key in ("ptrs", "fds", "mode") if key in step]
    elif op == "ioctlv":
        words = [f"{step['fd']} {step['cmd'].removeprefix('VFIO_')} {step['arg']:#x}"]
    elif op == "drv":
        words = [f"{step['fd']} device: {step['act']} ({', '.join(hex(n) for n in step['args'])})"]
    else:
        fields = {
            k: v for k, v in step.items() if k not in ("op", "ret", "err", "data", "hex", "kernel_warn")
        }
        words = [op, *(f"{key}={value}" for key, value in fields.items())]
    return " ".join(word for word in words if word)


def describe_payload(payload: bytes) -> str:
    """Format an argument as argsz, flags and 64-bit words; very short or long ones as hex."""
    if len(payload) < 8 or len(payload) > 256:
        return payload[:64].hex() + ("..." if len(payload) > 64 else "")
    argsz, flags = struct.unpack_from("<II", payload)
    count = (len(payload) - 8) // 8
    words = [f"{word:#x}" for word in struct.unpack_from(f"<{count}Q", payload, 8)]
    rest = payload[8 + 8 * count :].hex()
    return " ".join([f"argsz={argsz:#x} flags={flags:#x}", *words, *([rest] if rest else [])])


def _describe_field(key: str, expected: Answer, got: Answer) -> Iterator[str]:
    want, have = expected.get(key), got.get(key)
    if key == "mem" and isinstance(want, list) and isinstance(have, list):
        for entry, mine in zip(want, have, strict=True):
            if entry["hex"] != mine["hex"]:
                yield from _describe_bytes(
                    f"memory {entry['buf']}+{entry['off']:#x}", entry["hex"], mine["hex"]
                )
    elif key in ("out", "data", "hex") and isinstance(want, str) and isinstance(have, str):
        yield from _describe_bytes(key, want, have)
    else:
        yield f"    {key}: expected {_value(expected, key)}, got {_value(got, key)}"


def _describe_bytes(what: str, want: str, have: str) -> Iterator[str]:
    if len(want) != len(have):
        yield f"    {what}: expected {len(want) // 2} bytes, got {len(have) // 2}"
    shown = 0
    for at in range(0, max(len(want), len(have)), 16):
        expected, got = want[at : at + 16], have[at : at + 16]
        if expected == got:
            continue
        if shown == WORDS_SHOWN:
            yield f"    {what}: and more"
            return
        shown += 1
        yield f"    {what} at {at // 2:#x}: expected {_word(expected)}, got {_word(got)}"


def _word(text: str) -> str:
    data = bytes.fromhex(text)
    return f"{int.from_bytes(data, 'little'):#0{2 + 2 * len(data)}x}" if data else "nothing"


def _value(answer: Answer, key: str) -> str:
    if key not in answer:
        return "nothing"
    value: Any = answer[key]
    if isinstance(value, str) and len(value) > 200:
        return value[:200] + "..."
    return str(value)
