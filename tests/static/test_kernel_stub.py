# SPDX-License-Identifier: MIT
"""vfioemu/_kernel.pyi, by which mypy checks the calls of C."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vfioemu import _kernel

ROOT = Path(__file__).parents[2]
STUB = ROOT / "vfioemu" / "_kernel.pyi"

WRONG_CALLS = {
    "an argument is missing": ("lib.vfe_mark(bitmap)", "call-arg"),
    "an argument too many": ("lib.vfe_mark(bitmap, 1, 2)", "call-arg"),
    "a number is text": ("lib.vfe_mark(bitmap, '1')", "arg-type"),
    "two arguments have changed places": ("lib.vfe_mark(1, bitmap)", "arg-type"),
    "it is another struct": ("lib.vfe_mark(index, 1)", "arg-type"),
    "it may be NULL": ("lib.vfe_mark(lib.vfe_bitmap_create(64, lib.VFE_ISA_BEST), 1)", "arg-type"),
    "it is NULL": ("lib.vfe_count(ffi.NULL)", "arg-type"),
    "the memory is not for writing": (
        "lib.vfe_peek(bitmap, 0, 64, ffi.from_buffer(b'12345678'), 0)",
        "arg-type",
    ),
    "the array has other elements": (
        "lib.vfe_mark_pages(bitmap, ffi.new('struct vfe_run[]', 1), 1)",
        "arg-type",
    ),
    "there is no such function": ("lib.vfe_mork(bitmap, 1)", "attr-defined"),
    "there is no such field": ("bitmap.pages", "attr-defined"),
    "there is no such constant": ("lib.VFE_DMA_MOVE", "attr-defined"),
    "the result is none": ("lib.vfe_mark(bitmap, 1) + 1", "func-returns-value"),
    "the result is no text": ("lib.vfe_count(bitmap) + ''", "operator"),
}

PROGRAM = """
from vfioemu._kernel import BitmapPtr, IndexPtr, ffi, lib

def right(bitmap: BitmapPtr, index: IndexPtr) -> int:
    lib.vfe_mark_pages(bitmap, ffi.new("uint64_t[]", [1, 2]), 2)
    lib.vfe_index_set_bitmap(index, 0, ffi.NULL)
    lib.vfe_peek(bitmap, 0, 64, ffi.from_buffer(bytearray(8), require_writable=True), 0)
    made = lib.vfe_bitmap_create(64, lib.VFE_ISA_BEST)
    return lib.vfe_count(made) + bitmap.residue[0] if made else lib.VFE_DMA_READ

def wrong(bitmap: BitmapPtr, index: IndexPtr) -> None:
"""


def test_stub_is_what_the_script_makes_of_the_declarations(tmp_path):
    made = tmp_path / "_kernel.pyi"
    subprocess.run([sys.executable, ROOT / "csrc" / "kernel_stub.py", made], check=True)

    assert STUB.read_text() == made.read_text(), (
        "run: .venv/bin/python csrc/kernel_stub.py vfioemu/_kernel.pyi"
    )


def test_stub_has_what_the_module_has():
    methods = re.findall(r"^    def (vfe_\w+)\(", STUB.read_text(), re.MULTILINE)
    constants = re.findall(r"^    (VFE_\w+): Final\[int\]$", STUB.read_text(), re.MULTILINE)

    assert sorted([*methods, *constants]) == sorted(dir(_kernel.lib))
    assert not any(inspect.isroutine(getattr(_kernel.lib, name)) for name in constants)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_wrong_calls_of_c_are_found(tmp_path):
    file = tmp_path / "calls.py"
    file.write_text(PROGRAM + "".join(f"    {call}\n" for call, _ in WRONG_CALLS.values()))
    first = PROGRAM.count("\n") + 1

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )

    lines = range(first, first + len(WRONG_CALLS))
    found = re.findall(r":(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert {int(line) for line, _ in found} == set(lines), done.stdout
    for line, (what, (_, code)) in zip(lines, WRONG_CALLS.items(), strict=True):
        assert (str(line), code) in found, what
