#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draw the rooms of vfioemu and who imports whom: the picture in docs/architecture.md, from the imports themselves.

    python packaging/architecture.py           print the page
    python packaging/architecture.py --write   write docs/architecture.md

A room is a package of vfioemu, or of vfioemu.core, .io and .devices; the modules beside the rooms are drawn as one. Imports for
types count as well. An arrow that follows from two others is left out, so that the picture shows the floors.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import grimp

PAGE = Path(__file__).parents[1] / "docs/architecture.md"
OPEN = ("core", "io", "devices")
"""Packages whose rooms are drawn one by one."""
BESIDE = "beside"
"""The modules that any room may use."""

Edges = set[tuple[str, str]]


def room(module: str, packages: set[str]) -> str | None:
    """Return the room of a module, such as `core.type1`; None for vfioemu itself."""
    parts = module.split(".")[1:]
    if not parts:
        return None
    if len(parts) >= 2 and parts[0] in OPEN:
        deep = ".".join(parts[:2])
        return deep if f"vfioemu.{deep}" in packages else parts[0]
    return parts[0] if f"vfioemu.{parts[0]}" in packages else BESIDE


def edges() -> Edges:
    """Return who imports whom, by rooms; imports below TYPE_CHECKING are counted."""
    graph = grimp.build_graph("vfioemu", exclude_type_checking_imports=False, cache_dir=None)
    packages = {module for module in graph.modules if graph.find_children(module)}
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = room(importer, packages), room(imported, packages)
            if pair[0] and pair[1] and pair[0] != pair[1]:
                found.add((pair[0], pair[1]))
    return found


def floors(found: Edges) -> Edges:
    """Return the edges that do not follow from others (the transitive reduction); a circle keeps all of its own."""
    return {(a, b) for a, b in found if not _leads(found - {(a, b)}, a, b)}


def _leads(found: Edges, start: str, end: str) -> bool:
    """Tell whether `end` can be reached from `start`."""
    seen, ahead = set(), [start]
    while ahead:
        at = ahead.pop()
        for a, b in found:
            if a == at and b not in seen:
                if b == end:
                    return True
                seen.add(b)
                ahead.append(b)
    return False


def mermaid(found: Iterable[tuple[str, str]]) -> str:
    """Write edges as a diagram for Mermaid."""
    drawn = sorted(found)
    rooms = sorted({name for edge in drawn for name in edge})
    lines = ["flowchart TD"]
    for group in OPEN:
        inside = [name for name in rooms if name == group or name.startswith(group + ".")]
        lines += [f"  subgraph {group}_rooms [{group}]", *(f"    {_id(n)}[{n}]" for n in inside), "  end"]
    lines += [f"  {_id(n)}[{n}]" for n in rooms if n.split(".")[0] not in OPEN]
    lines += [f"  {_id(a)} --> {_id(b)}" for a, b in drawn]
    return "\n".join(lines)


def _id(name: str) -> str:
    return name.replace(".", "_") + "_"


def page() -> str:
    """Write the whole page."""
    return f"""# The rooms, and who imports whom

Drawn from the imports by `packaging/architecture.py`; a test holds this page to them. An arrow points to what is imported, types
included; arrows that follow from others are left out. `{BESIDE}` are the modules that stand beside the layers.
[design.md](design.md) says what each room is for.

```mermaid
{mermaid(floors(edges()))}
```
"""


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
