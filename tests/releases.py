# SPDX-License-Identifier: MIT
"""The kernel releases, for tests: what is true of every one of them is asked of every one of them."""

from errno import errorcode

import pytest

from vfioemu.uapi.profile import Profile
from vfioemu.uapi.profiles import DEFAULT, PROFILES

every_release = pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
"""The test takes a `profile`, and is run for each release there is."""
REVISED = [profile for profile in PROFILES.values() if profile.base is not None]
"""Those that are described by what differs from another one."""


def name(errno: int | None) -> str | None:
    """The name of a fact that is an errno."""
    return None if errno is None else errorcode[errno]


def having(name: str) -> Profile:
    """The oldest release that has an ioctl or a feature."""
    return next(profile for profile in PROFILES.values() if profile.has(name))


def lacking(name: str) -> Profile:
    """The oldest release that does not."""
    return next(profile for profile in PROFILES.values() if not profile.has(name))


def differing(fact: str) -> Profile:
    """The oldest release of which a fact is not what it is of the default release."""
    return next(profile for profile in PROFILES.values() if getattr(profile, fact) != getattr(DEFAULT, fact))


def with_fact(fact: str, value: object) -> Profile:
    """The oldest release of which a fact has this value."""
    return next(profile for profile in PROFILES.values() if getattr(profile, fact) == value)


__all__ = [
    "DEFAULT",
    "PROFILES",
    "REVISED",
    "differing",
    "every_release",
    "having",
    "lacking",
    "name",
    "with_fact",
]
