# SPDX-License-Identifier: MIT
"""Migration policies: when the guest stops, when it is slowed down, when to give up. One module each, found by itself.

docs/howto/policy.md says how to add one. A module has a POLICY, a class as `policy.Policy` describes it, and gives it its name:
`auto_converge` is that of ``--policy auto-converge``. `names` imports none of them.
"""

import importlib
import pkgutil
from typing import Final, cast

from vfioemu.migration.policies.policy import MakePolicy

_NO_POLICIES: Final = frozenset({"policy"})
"""Modules of this room that have no POLICY."""


def names() -> list[str]:
    """Return the names of all policies, in order."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - _NO_POLICIES
    return sorted(module.replace("_", "-") for module in modules)


def load(name: str) -> MakePolicy:
    """Import a policy by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in names():
        raise ValueError(f"no migration policy {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast("MakePolicy", module.POLICY)
