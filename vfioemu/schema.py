# SPDX-License-Identifier: MIT
"""Make the JSON Schema of the lines that programs read; it is the same with every release of msgspec.

The schema files are committed. Descriptions are docstrings: before 0.23 msgspec copied them with the indentation of the
source, since then it cleans them.
"""

import inspect
from typing import Any

import msgspec


def json_schema(type: Any) -> dict[str, Any]:
    """Return the JSON Schema of a msgspec type."""
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
