# SPDX-License-Identifier: MIT
"""Connect a machine to sockets and tasks: see `running` and docs/design.md.

The modules that run a daemon are imported on first use: programs that only look for a running daemon do not need them.
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
