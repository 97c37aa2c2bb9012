# SPDX-License-Identifier: MIT
"""A kernel release that nobody has released: it says EBUSY to MAP_DMA of what is mapped already, and is else as the newest."""

from dataclasses import replace
from errno import EBUSY
from typing import Final

from vfioemu.uapi.releases.linux_7_2 import PROFILE as BASE

PROFILE: Final = replace(BASE, name="linux-7.9", base=BASE, map_overlap_errno=EBUSY)
