# SPDX-License-Identifier: MIT
"""Device models by name: the entry points of the group ``vfioemu.devices``, of this and of every installed package.

A model that no package names can be tried as ``package.module:Class``, the form of an entry point's value. Such a name is code
that is imported and run: it is taken from who starts a machine, never from who talks to one. So a running machine has the
models that it was started with (`tried`).
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from vfioemu.core.model.device import DeviceModel, Factory
from vfioemu.devices.options import Option, describe, schema

GROUP: Final = "vfioemu.devices"
_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class BrokenModel(Exception):
    """A model that is installed, or named by its class, cannot be loaded; the text says whose, and why.

    Args:
        why: the text.
        hint: what to do about it.
    """

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


class Models(Mapping[str, Factory]):
    """Every model that is installed; one is imported when it is first asked for.

    Args:
        extra: models to add to (or put in the place of) the installed ones.
        classes: ``package.module:Class`` is the name of a model, too.
    """

    def __init__(self, extra: Mapping[str, Factory] | None = None, *, classes: bool = False) -> None:
        self._classes = classes
        self._loaded: dict[str, Factory] = dict(extra or {})
        self._found: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}

    def __getitem__(self, name: str) -> Factory:
        if self._classes and is_class(name):
            return _import(name)
        if name not in self._loaded:
            point = self._found[name]
            try:
                factory: Factory = point.load()
            except Exception as error:
                package = "" if point.dist is None else f" of the package {point.dist.name}"
                raise BrokenModel(
                    f"the device model {name!r}{package} ({point.value}) cannot be loaded:"
                    f" {type(error).__name__}: {error}",
                    "repair or remove that package",
                ) from error
            self._loaded[name] = factory
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._found, *self._loaded}))

    def __len__(self) -> int:
        return len({*self._found, *self._loaded})


def load_models(
    extra: Mapping[str, Factory] | None = None, *, tried: Iterable[str] = ()
) -> Mapping[str, Factory]:
    """Give every model that is installed, by name, for a Machine.

    Args:
        extra: models to add to (or put in the place of) the installed ones, for tests.
        tried: names of models; those of the form ``package.module:Class`` are there as well.

    Raises:
        BrokenModel: there is no such class.
    """
    models = {name: _import(name) for name in tried if is_class(name)}
    return Models({**models, **(extra or {})})


def load_models_and_classes() -> Mapping[str, Factory]:
    """Give every model that is installed, and any ``package.module:Class``: for names that come from who starts a machine."""
    return Models(classes=True)


def is_class(name: str) -> bool:
    """Tell whether a name is ``package.module:Class``, which is no name of an installed model."""
    return _PATH.fullmatch(name) is not None


def _import(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        nowhere = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        hint = "the current directory is not searched: name the module's in PYTHONPATH" if nowhere else ""
        why = f"the device model {name!r} cannot be loaded: {type(error).__name__}: {error}"
        raise BrokenModel(why, hint) from error
    if not (isinstance(found, type) and issubclass(found, DeviceModel)):
        why = f"the device model {name!r} is no subclass of DeviceModel, but {type(found).__name__} {found!r:.60}"
        raise BrokenModel(why, "as in --device package.module:Class")
    return found


def summary(factory: Factory) -> str:
    """Return the first line of a model's documentation, or of that of the package or module to which this refers."""
    line = _first_line(factory)
    module = getattr(factory, "__module__", "")
    if referred := re.search(r"; see the (package|module)\.", line):
        line = _first_line(sys.modules[module.rpartition(".")[0] if referred[1] == "package" else module])
    return re.sub(r"^`[^`]+`: ", "", line)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def options(factory: Factory) -> Mapping[str, str]:
    """Return the options of a model, with their meanings."""
    return {row.name: str(row) for row in option_rows(factory)}


def option_rows(factory: Factory) -> list[Option]:
    """List the options of a model, in parts."""
    return describe(*_described(factory))


def option_schema(factory: Factory) -> dict[str, Any]:
    """Build the JSON Schema of a model's options."""
    return schema(*_described(factory))


def _described(factory: Factory) -> tuple[Mapping[str, str], bool]:
    table: Mapping[str, str] = getattr(factory, "OPTIONS", {})
    return table, bool(getattr(factory, "migration_flags", 0)) or "migration" in table


def default_bus(factory: Factory) -> str:
    """Return the bus of a model's devices unless somebody says otherwise: a model that is mediated in the kernel says so."""
    return str(getattr(factory, "BUS", "pci"))
