# SPDX-License-Identifier: MIT
"""JSON Schema of the lines that programs read, the same whatever release of msgspec makes it: the files are committed.

Descriptions are docstrings: msgspec takes them as they are indented in the source before 0.23, and cleans them since then.
"""

import inspect
from typing import Any

import msgspec


def json_schema(type: Any) -> dict[str, Any]:
    """The JSON Schema of a msgspec type."""
    schema = msgspec.json.schema(type)
    _clean(schema)
    return schema


def _clean(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(text := node.get("description"), str):
            node["description"] = inspect.cleandoc(text)
        for part in node.values():
            _clean(part)
    elif isinstance(node, list):
        for part in node:
            _clean(part)
