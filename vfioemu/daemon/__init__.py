# SPDX-License-Identifier: MIT
"""Wires a machine into sockets and tasks: see `running` and docs/design.md."""

from vfioemu.daemon.runtime_dir import StartError
from vfioemu.daemon.serve import Daemon, running

__all__ = ["Daemon", "StartError", "running"]
