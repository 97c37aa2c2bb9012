# SPDX-License-Identifier: MIT
"""The console blocks of the pages: what is typed, and what is said to be printed."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "protocol").glob("*.md")),
]
_BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_VARYING = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?|/\S*")
"""Addresses, numbers and absolute paths."""
NOT_HERE = {
    "make build": "would install into the .venv that runs this test: whoever runs it has built it",
    "make demo": "the make targets themselves, in a folder of their own: .ci/as-user runs both",
    "sudo apt install qemu-system-x86": "needs root and QEMU: tests/system/interop/test_walkthrough.py types the rest of it",
    "guest# dmesg | grep ttyS1": "is typed in the guest: tests/system/interop/test_walkthrough.py",
    "vfioemu incoming tls:": "needs two machines and certificates: tests/cli/test_migrate.py moves a guest over TLS within one",
    "make test-programs": "fetches 2 GB: people do, and docs/programs.md is what they saw",
    "python3 -m venv build/mine": "needs the packages of PyPI: tests/packaging installs a wheel without them",
}
"""Blocks that are run elsewhere, by their first command, and why."""


@dataclass(frozen=True)
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]

    def check(self, printed):
        """Each shown line is printed, in this order; what varies from run to run may be another of its kind."""
        lines = iter(printed.splitlines())
        for line in self.shown:
            pattern = _pattern(line)
            assert any(pattern.fullmatch(found) for found in lines), f"not printed: {line}\nby: {printed}"


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    page: str
    text: str

    @property
    def steps(self):
        """Its commands."""
        steps = []
        for line in self.text.replace("\\\n", "\\\0").splitlines():
            prompt = re.match(r"(\$|guest#) ", line)
            if prompt:
                command = line.replace("\0", "\n")
                steps.append((command if prompt[1] == "guest#" else command[2:], []))
            else:
                steps[-1][1].append(line)
        return [Step(command, tuple(shown)) for command, shown in steps]

    @property
    def name(self):
        """Its page and its first command, without the remark behind it."""
        return f"{self.page}: {re.sub(r'  +#.*', '', self.steps[0].command)}"

    @property
    def why_not(self):
        """Why it is not run here; "" if it is."""
        return next((why for begin, why in NOT_HERE.items() if self.steps[0].command.startswith(begin)), "")


def _pattern(line):
    parts, last = [], 0
    for match in _VARYING.finditer(line):
        kind = match[0]
        parts.append(re.escape(line[last : match.start()]))
        if kind.startswith("/"):
            parts.append(r"\S+" if len(kind) > 1 else "/")
        else:
            parts.append("0x[0-9a-f]+" if kind.startswith("0x") else r"\d+(?:\.\d+)?")
        last = match.end()
    return re.compile("".join(parts) + re.escape(line[last:]))


def blocks():
    """All blocks of all pages."""
    return [
        Block(str(page.relative_to(ROOT)), textwrap.dedent(match[2]))
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
