# SPDX-License-Identifier: MIT
"""`--memlock`: what locked memory is held against."""

from typing import Any

import click

from vfioemu.core.memory.accounting import Memlock
from vfioemu.sizes import parse_size


class MemlockType(click.ParamType[Memlock]):
    """off, client, or a number of bytes."""

    name = "LIMIT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Memlock:
        """The value, or a usage error."""
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
