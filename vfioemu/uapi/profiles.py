# SPDX-License-Identifier: MIT
"""The kernel releases there are: one module each in `releases/`, found by itself.

Whatever wants to know which releases there are (`--profile`, the strategies, the support page, the tests) asks here, or
`releases.names`.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vfioemu.uapi import releases
from vfioemu.uapi.profile import Profile


def load(release: str) -> Profile:
    """Import the module of a release and return its PROFILE.

    Raises:
        ValueError: the module has no PROFILE, or one of another name.
    """
    module = f"{releases.__name__}.{releases.module_name(release)}"
    profile = getattr(importlib.import_module(module), "PROFILE", None)
    if not isinstance(profile, Profile):
        raise ValueError(f"{module} has no PROFILE that is a Profile")
    if profile.name != release:
        raise ValueError(f"{module}: the name of its PROFILE is {profile.name!r}, not {release!r}")
    return profile


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({name: load(name) for name in releases.names()})
"""All releases by name, the oldest first."""

DEFAULT: Final = PROFILES["linux-6.12"]
"""Whose answers are given where nobody asks for others: most of the recorded traces are its."""
