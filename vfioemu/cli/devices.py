# SPDX-License-Identifier: MIT
"""`vfioemu devices`: which models there are, and what one can say of each."""

import json

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.core.model.device import Factory
from vfioemu.daemon.arguments import COMMON, unknown
from vfioemu.devices.registry import BrokenModel, default_bus, load_models, options, summary


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
            try:
                factory = models[model]
            except BrokenModel as broken:
                print(f"{model:<{width}}  -     cannot be used: {broken}")
                continue
            print(f"{model:<{width}}  {default_bus(factory):<4}  {summary(factory)}")
    else:
        _show(name, models[name])


def _describe(name: str, factory: Factory) -> dict[str, object]:
    return {
        "name": name,
        "bus": default_bus(factory),
        "summary": summary(factory),
        "options": options(factory),
    }


def _show(name: str, factory: Factory) -> None:
    own = options(factory)
    width = max(len(key) for key in (*COMMON, *own))
    print(f"{name}: {summary(factory)}")
    if own:
        print("\nIts options:")
        for key, meaning in own.items():
            print(f"  {key:<{width}}  {meaning}")
    print("\nOptions of every device:")
    for key, meaning in COMMON.items():
        default = f" (default: {default_bus(factory)})" if key == "bus" else ""
        print(f"  {key:<{width}}  {meaning}{default}")
