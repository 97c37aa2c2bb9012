# SPDX-License-Identifier: MIT
"""Wires a machine into sockets and tasks: see `running` and docs/design.md.

What runs a daemon is imported when it is asked for: whoever only wants to know where one is has no use for it.
"""

from typing import TYPE_CHECKING, Any

from vfioemu.daemon.runtime_dir import StartError

if TYPE_CHECKING:
    from vfioemu.daemon.serve import Daemon, running

__all__ = ["Daemon", "StartError", "running"]


def __getattr__(name: str) -> Any:
    if name in ("Daemon", "running"):
        from vfioemu.daemon import serve

        return getattr(serve, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
