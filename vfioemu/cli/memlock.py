# SPDX-License-Identifier: MIT
"""`--memlock`: the limit for locked memory."""

from typing import Any

import click

from vfioemu.core.memory.accounting import Memlock
from vfioemu.sizes import parse_size


class MemlockType(click.ParamType[Memlock]):
    """A value of --memlock: off, client, or a size in bytes."""

    name = "LIMIT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Memlock:
        """Convert the value, or fail with a usage error."""
        if value == "off" or value == "client":
            return "off" if value == "off" else "client"
        try:
            return parse_size(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither off, nor client, nor a size such as 64MiB", param, ctx)


memlock_option = click.option(
    "--memlock",
    type=MemlockType(),
    help="What locked memory is held against: off, client (its RLIMIT_MEMLOCK), or a size. The machine file's if not given.",
)
