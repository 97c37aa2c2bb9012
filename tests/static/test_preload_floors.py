# SPDX-License-Identifier: MIT
"""The files of csrc/preload call downwards only: nothing that a function calls comes back to its file."""

import graphlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.preload.conftest import SHIM

SOURCES = Path(__file__).parents[2] / "csrc" / "preload"

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("nm") is None, reason="there is no C compiler"
)


def compile_files(sources, folder, *options):
    """Compile C files, with nothing inlined; return the folder of the objects."""
    subprocess.run(["cc", "-std=gnu11", "-O0", *options, "-c", *sources], check=True, cwd=folder, timeout=240)
    return folder


def symbols(objects):
    """Map each file to the names that it defines, and to those that it wants."""
    defined, wanted = {}, {}
    for file in sorted(objects.glob("*.o")):
        listing = subprocess.run(["nm", file], check=True, capture_output=True, text=True, timeout=60).stdout
        found = re.findall(r"^[0-9a-f ]{16} (\w) (\S+)$", listing, re.MULTILINE)
        defined[file.stem] = {name for kind, name in found if kind in "BCDRTVW"}
        wanted[file.stem] = {name for kind, name in found if kind == "U"}
    return defined, wanted


def uses(objects):
    """Map each file to the files whose functions and variables it uses."""
    defined, wanted = symbols(objects)
    home = {name: file for file, names in defined.items() for name in names}
    return {file: {home[name] for name in names & home.keys()} - {file} for file, names in wanted.items()}


def includes(sources):
    """Map each file to the files whose headers it, or its own header, includes."""
    graph = {}
    for file in sources:
        found = set(re.findall(r'^#include "(\w+)\.h"', file.read_text(), re.MULTILINE))
        graph.setdefault(file.stem, set()).update(found - {file.stem})
    return graph


def circle(graph):
    """A circle of files; none, if there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


@pytest.mark.slow
def test_calls_go_downwards(tmp_path):
    sources = set(SOURCES.glob("*.c"))
    options = [option for option in SHIM if option not in sources]

    graph = uses(compile_files(sorted(sources), tmp_path, "-fPIC", *options))

    assert set(graph) == {file.stem for file in SOURCES.glob("*.c")}
    assert "session" in graph["call"]
    assert circle(graph) is None


def test_includes_go_downwards():
    graph = includes(sorted(SOURCES.glob("*.[ch]")))

    assert "session" in graph["call"]
    assert circle(graph) is None


def test_a_circle_is_found(tmp_path):
    calls = {"upper": "middle", "middle": "lower", "lower": "middle"}
    for name, callee in calls.items():
        text = f'#include "{callee}.h"\nint {callee}(void);\nint {name}(void)\n{{\n\treturn {callee}();\n}}\n'
        (tmp_path / f"{name}.c").write_text(text)
        (tmp_path / f"{name}.h").write_text("")
    graph = uses(compile_files([tmp_path / f"{name}.c" for name in calls], tmp_path))

    assert graph == {name: {callee} for name, callee in calls.items()}
    assert set(circle(graph)) == set(circle(includes(tmp_path.glob("*.c")))) == {"middle", "lower"}
