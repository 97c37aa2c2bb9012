# SPDX-License-Identifier: MIT
"""`vfioemu device`: let a device of a running daemon signal its user."""

from pathlib import Path
from typing import Final

import click

from vfioemu.cli.where import ask, runtime_dir_option

_INTERRUPTS: Final = {"error": "ERR", "request": "REQ"}


@click.command(name="device")
@runtime_dir_option
@click.argument("name")
@click.argument("what", type=click.Choice(list(_INTERRUPTS)))
def command(runtime_dir: Path | None, instance: str, name: str, what: str) -> None:
    """Have device NAME (its symbol, address or uuid) raise an interrupt that tells its user something.

    error: it has an uncorrectable error (ERR, as from AER of PCI Express). request: its owner wants it back (REQ, as before
    it is unplugged). Prints whether somebody listens.
    """
    heard = ask(runtime_dir, instance, "device-raise", device=name, what=what)["heard"]
    print("heard" if heard else f"not heard: nobody has set an eventfd for {_INTERRUPTS[what]}")
