# SPDX-License-Identifier: MIT
"""The kernel releases whose answers can be given; what they differ in is data of `vfioemu.uapi`.

A handler asks the profile for a fact (`profile.map_wrap_errno`), never for a version.
"""

from typing import Literal, TypeAlias

from vfioemu.uapi.profile import Profile as Profile
from vfioemu.uapi.profiles import DEFAULT as DEFAULT
from vfioemu.uapi.profiles import PROFILES as PROFILES

Quirks: TypeAlias = Literal["recorded", "clean"]
"""The answers where the kernel errs: as recorded, or as they should be."""
