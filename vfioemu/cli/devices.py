# SPDX-License-Identifier: MIT
"""`vfioemu devices`: which models there are, and what one can say of each."""

import json
import re
import sys
from collections.abc import Mapping

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.core.model import Factory
from vfioemu.daemon.arguments import COMMON, default_bus, unknown
from vfioemu.devices.registry import load_models


@click.command(name="devices")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the device models, or the options of one."""
    models = load_models()
    if name is not None and name not in models:
        error = unknown("device", name, models, "vfioemu devices")
        raise CommandError(str(error), error.hint, USAGE)
    if as_json:
        found = [_describe(model, models[model]) for model in ([name] if name else models)]
        print(json.dumps(found[0] if name else found, indent=2))
    elif name is None:
        width = max(len(model) for model in models)
        for model in models:
            print(f"{model:<{width}}  {default_bus(models[model]):<4}  {_summary(models[model])}")
    else:
        _show(name, models[name])


def _summary(factory: Factory) -> str:
    """What a model is: the first line of its documentation, or of the package or module that this refers to."""
    line = _first_line(factory)
    module = getattr(factory, "__module__", "")
    if referred := re.search(r"; see the (package|module)\.", line):
        line = _first_line(sys.modules[module.rpartition(".")[0] if referred[1] == "package" else module])
    return re.sub(r"^`[^`]+`: ", "", line)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _describe(name: str, factory: Factory) -> dict[str, object]:
    return {
        "name": name,
        "bus": default_bus(factory),
        "summary": _summary(factory),
        "options": _options(factory),
    }


def _options(factory: Factory) -> Mapping[str, str]:
    return dict(getattr(factory, "OPTIONS", {}))


def _show(name: str, factory: Factory) -> None:
    options = _options(factory)
    width = max(len(key) for key in (*COMMON, *options))
    print(f"{name}: {_summary(factory)}")
    if options:
        print("\nIts options:")
        for key, meaning in options.items():
            print(f"  {key:<{width}}  {meaning}")
    print("\nOptions of every device:")
    for key, meaning in COMMON.items():
        default = f" (default: {default_bus(factory)})" if key == "bus" else ""
        print(f"  {key:<{width}}  {meaning}{default}")
