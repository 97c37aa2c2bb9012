# SPDX-License-Identifier: MIT
"""Device models by name: the entry points of the group ``vfioemu.devices``, of this and of every installed package."""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from vfioemu.core.model.device import Factory

GROUP: Final = "vfioemu.devices"


class BrokenModel(Exception):
    """A model that somebody has installed cannot be loaded; the text says whose, and why."""


class Models(Mapping[str, Factory]):
    """Every model that is installed; one is imported when it is first asked for.

    Args:
        extra: models to add to (or put in the place of) the installed ones, for tests.
    """

    def __init__(self, extra: Mapping[str, Factory] | None = None) -> None:
        self._loaded: dict[str, Factory] = dict(extra or {})
        self._found: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}

    def __getitem__(self, name: str) -> Factory:
        if name not in self._loaded:
            point = self._found[name]
            try:
                factory: Factory = point.load()
            except Exception as error:
                package = "" if point.dist is None else f" of the package {point.dist.name}"
                raise BrokenModel(
                    f"the device model {name!r}{package} ({point.value}) cannot be loaded:"
                    f" {type(error).__name__}: {error}"
                ) from error
            self._loaded[name] = factory
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._found, *self._loaded}))

    def __len__(self) -> int:
        return len({*self._found, *self._loaded})


def load_models(extra: Mapping[str, Factory] | None = None) -> Mapping[str, Factory]:
    """Every model that is installed, by name, for a Machine."""
    return Models(extra)


def summary(factory: Factory) -> str:
    """What a model is: the first line of its documentation, or of the package or module that this refers to."""
    line = _first_line(factory)
    module = getattr(factory, "__module__", "")
    if referred := re.search(r"; see the (package|module)\.", line):
        line = _first_line(sys.modules[module.rpartition(".")[0] if referred[1] == "package" else module])
    return re.sub(r"^`[^`]+`: ", "", line)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def options(factory: Factory) -> Mapping[str, str]:
    """What a model can be told, and what that means."""
    own = dict(getattr(factory, "OPTIONS", {}))
    if getattr(factory, "migration_flags", 0):
        own.setdefault("migration", "by which protocol it migrates: v2 (default), v1, none")
    return own


def default_bus(factory: Factory) -> str:
    """Where a model's devices are unless somebody says otherwise: a model that is mediated in the kernel says so."""
    return str(getattr(factory, "BUS", "pci"))
