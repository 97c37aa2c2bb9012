# SPDX-License-Identifier: MIT
"""Device models by name: the entry points of the group ``vfioemu.devices``, of this and of every installed package."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from vfioemu.core.model import Factory

GROUP: Final = "vfioemu.devices"


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
            factory: Factory = self._found[name].load()
            self._loaded[name] = factory
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._found, *self._loaded}))

    def __len__(self) -> int:
        return len({*self._found, *self._loaded})


def load_models(extra: Mapping[str, Factory] | None = None) -> Mapping[str, Factory]:
    """Every model that is installed, by name, for a Machine."""
    return Models(extra)
