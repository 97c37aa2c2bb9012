# SPDX-License-Identifier: MIT
"""One module per kernel release, found by itself; docs/howto/release.md says how to add one.

A module has a PROFILE (profile.py), and the release's name: `linux_7_2` is that of ``linux-7.2``. `names` does not import
them: a command that only lists the choices would wait for all structs to be laid out.
"""

import pkgutil


def names() -> list[str]:
    """Return the names of all releases, the oldest first."""
    return sorted(
        (_release(module.name) for module in pkgutil.iter_modules(__path__)),
        key=lambda name: [int(part) for part in name.rpartition("-")[2].split(".")],
    )


def module_name(release: str) -> str:
    """Return the module that describes a release: ``linux_7_2`` for ``linux-7.2``."""
    return release.replace("-", "_").replace(".", "_")


def _release(module: str) -> str:
    system, _, version = module.partition("_")
    return f"{system}-{version.replace('_', '.')}"
