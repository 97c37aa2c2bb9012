# SPDX-License-Identifier: MIT
"""vfioemu.testing has what the pages promise, and what that needs: nothing that only tests, fuzzers and benchmarks use."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTING = "vfioemu.testing"
PAGES = [ROOT / "docs/testing.md", ROOT / "docs/devices.md"]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN = "vfioemu.testing.pytest_plugin"
"""An entry point of pytest's; its fixtures are in the table."""


def promises():
    """The names of vfioemu that examples import, and those that the pages name: (module, name)."""
    found = {("vfioemu.testing.instance", "Instance"), (PLUGIN, "vfioemu")}
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vfioemu"):
                    found.update((node.module, alias.name) for alias in node.names)
    return sorted(found)


def modules(package):
    """Map the modules of a package to their files."""
    top = ROOT / package.replace(".", "/")
    names = {}
    for file in top.rglob("*.py"):
        parts = (package, *file.relative_to(top).with_suffix("").parts)
        names[".".join(part for part in parts if part != "__init__")] = file
    return names


def imported(file):
    """The modules that a file names in imports, also those that come late or for types only."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def needed():
    """What of vfioemu.testing the promised names and the rest of the package need."""
    rest = {name: file for name, file in modules("vfioemu").items() if not name.startswith(TESTING)}
    queue = [module for module, _ in promises()] + [f"{module}.{name}" for module, name in promises()]
    queue += [name for file in rest.values() for name in imported(file)]
    ours, found = modules(TESTING), set()
    while queue:
        name = queue.pop()
        if name in ours and name not in found:
            found.add(name)
            queue += imported(ours[name])
    return found | {TESTING}


@pytest.mark.parametrize(("module", "name"), promises())
def test_what_is_promised_is_there(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_nothing_else_is_there():
    assert set(modules(TESTING)) == needed()
