# SPDX-License-Identifier: MIT
"""README's walk through QEMU, typed on a terminal: what is typed is seen, and what README shows is printed."""

import os
import re
import select
import subprocess

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.system.interop.guestimage import guest_image
from tests.system.interop.programs import VERSIONS, MissingError, qemu
from vfioemu.starting import command

pytestmark = pytest.mark.interop
SECONDS = 300.0
"""Of the guest, without KVM, on a busy machine."""


def block_of(begin):
    return next(block for block in blocks() if block.steps[0].command.startswith(begin))


def any_qemu():
    for generation in VERSIONS:
        try:
            return qemu(generation)
        except MissingError:
            continue
    pytest.skip("there is no QEMU: tests/system/interop/fetch gets one")


class Terminal:
    """A program on a terminal."""

    def __init__(self, line, environment):
        self.fd, theirs = os.openpty()
        self.process = subprocess.Popen(
            line, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment
        )
        os.close(theirs)
        self.text = ""

    def until(self, pattern):
        """What has come up to a pattern; the rest stays."""
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.fd], [], [], SECONDS)
            assert ready, f"no {pattern!r} in {self.text!r}"
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # EIO: everybody has closed it
                pytest.fail(f"it has ended: {self.text}")
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def close(self):
        os.write(self.fd, b"\x01x")  # Ctrl-A X ends QEMU, as README says
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        os.close(self.fd)


def test_guest_shows_what_is_typed_and_what_readme_promises():
    block = block_of("sudo apt install qemu-system-x86")
    line = next(step.command for step in block.steps if "vfioemu run" in step.command).replace("\\\n", " ")
    program, image = any_qemu(), guest_image()
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
    options = words[words.index("qemu-system-x86_64") + 1 :]
    files = {"build/guest/vmlinuz": os.fspath(image.kernel), "build/guest/initrd": os.fspath(image.initrd)}
    options = [files.get(word, word) for word in options]
    run = words[words.index("run") : words.index("--") + 1]
    terminal = Terminal(command(*run, *program.argv, *options), {**os.environ, **program.environment})
    try:
        terminal.until(r"guest# ")
        typed = [
            step
            for page in (block, block_of("guest# dmesg"))
            for step in page.steps
            if step.command.startswith("guest#")
        ]
        for step in typed:
            text = step.command.removeprefix("guest# ")
            os.write(terminal.fd, text.encode() + b"\n")
            assert text in terminal.until(r"\n")
            printed = re.sub(r"\r|\x1b\[K", "\n", terminal.until(r"guest# "))
            assert "bytes" not in text or " of 65536 bytes" in printed
            step.check(re.sub(r"^\[[ 0-9.]+\] (serial )?", "", printed, flags=re.MULTILINE))
    finally:
        terminal.close()
