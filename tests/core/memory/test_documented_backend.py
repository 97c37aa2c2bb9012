# SPDX-License-Identifier: MIT
"""docs/backend.md shows a backend and its test; here it runs. A second backend takes new files only."""

import importlib.util
import re
import sys
from pathlib import Path

from vfioemu.core.memory import backend

PAGE = (Path(__file__).parents[3] / "docs" / "backend.md").read_text(encoding="utf-8")


def load(text, folder, monkeypatch):
    title = re.match(r"# (\w+)\.py", text)
    assert title
    name = title[1]
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def operations(protocol):
    return {name for one in protocol.__mro__ for name in vars(one) if not name.startswith("_")}


def test_the_backend_of_the_page_works(tmp_path, monkeypatch):
    flat, test = (
        load(text, tmp_path, monkeypatch) for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    )

    test.test_a_device_writes_into_the_process()

    assert operations(backend.ContainerBackend) <= set(dir(flat.Flat))
    assert operations(backend.IommuDriver) <= set(dir(flat.FlatDriver))


def test_the_page_names_each_operation():
    for protocol in (backend.ContainerBackend, backend.IommuDriver):
        for name in operations(protocol):
            assert f"`{name}`" in PAGE, name
