# SPDX-License-Identifier: MIT
"""The guest file: TOML, the same for both sides of a migration.

name = "demo"
seed = 1                        # of the contents, the CPUs and the devices

[[memory]]                      # a RAM block
name = "low"
base = 0                        # guest physical address, and IOVA
size = "192 MiB"
zero = 30                       # out of 100 pages: zero, text, random; the rest counts
text = 30
random = 30

[[cpu]]                         # a CPU that writes stamped pages
memory = "low"
offset = 0
size = "16 MiB"                 # absent: to the end of the block
pattern = "uniform"             # or sweep, hot
rate = 2000                     # pages a second

[[container]]
name = "c0"
[[container.device]]
name = "dma0"
group = 12                      # on the daemon that this side uses
device = "00000000-0000-4000-8000-000000000001"
[container.device.program]      # absent: the device is left alone
memory = "low"
offset = "32 MiB"
size = "64 MiB"
pattern = "random"              # or sequential, hot
rate = 2000                     # writes a second
write-size = 64
pin = "none"                    # or keep, window; absent: as the machine file says
pin-pages = 64
"""

import os

from vfioemu.migration.guestcheck import mistakes
from vfioemu.migration.guestspec import GuestSpec
from vfioemu.tomlfile import TomlError, TomlFile, dotted, parse, read


class GuestFileError(Exception):
    """A guest that cannot be built: where in its file, and why."""


def load_guest(path: str | os.PathLike[str]) -> GuestSpec:
    """Read a guest file.

    Raises:
        GuestFileError: it cannot be read, or describes no guest.
    """
    try:
        return _convert(read(path))
    except TomlError as error:
        raise GuestFileError(str(error)) from None


def parse_guest(text: str, path: str = "guest") -> GuestSpec:
    """`load_guest` for a text; `path` is for messages."""
    try:
        return _convert(parse(text, path))
    except TomlError as error:
        raise GuestFileError(str(error)) from None


def check(spec: GuestSpec) -> None:
    """Refuse with GuestFileError what the types alone do not."""
    for mistake in mistakes(spec):
        raise GuestFileError(f"{dotted(mistake.key)}: {mistake.why}")


def _convert(file: TomlFile) -> GuestSpec:
    spec = file.convert(GuestSpec)
    for mistake in mistakes(spec):
        raise file.error(mistake.key, mistake.why)
    return spec
