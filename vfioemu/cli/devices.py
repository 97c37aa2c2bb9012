# SPDX-License-Identifier: MIT
"""`vfioemu devices`: list the models, and the options of each."""

import json

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.core.model.device import Factory
from vfioemu.daemon.arguments import COMMON, unknown
from vfioemu.devices.options import Option
from vfioemu.devices.registry import (
    BrokenModel,
    default_bus,
    load_models_and_classes,
    option_rows,
    option_schema,
    options,
    summary,
)


@click.command(name="devices")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--json-schema", "as_schema", is_flag=True, help="The options of NAME as a JSON Schema.")
def command(name: str | None, as_json: bool, as_schema: bool) -> None:
    """List the device models, or the options of one: its name, or package.module:Class."""
    if as_schema and name is None:
        raise CommandError(
            "--json-schema needs the name of a model", "as in vfioemu devices edu --json-schema", USAGE
        )
    models = load_models_and_classes()
    if name is not None and name not in models:
        error = unknown("device", name, models, "vfioemu devices")
        raise CommandError(str(error), error.hint, USAGE)
    if as_schema and name is not None:
        print(json.dumps(option_schema(models[name]), indent=2))
    elif as_json:
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
    own = option_rows(factory)
    common = [
        Option(
            key, meaning, "pci or mdev" if key == "bus" else "", default_bus(factory) if key == "bus" else ""
        )
        for key, meaning in COMMON.items()
    ]
    width = max(len(row.name) for row in (*own, *common))
    print(f"{name}: {summary(factory)}")
    if own:
        print("\nIts options:")
        _show_rows(own, width)
    print("\nOptions of every device:")
    _show_rows(common, width)


def _show_rows(rows: list[Option], width: int) -> None:
    for row in rows:
        print(f"  {row.name:<{width}}  {row.meaning}")
        default = f"default {row.default}" if row.default else ""
        if details := "; ".join(filter(None, (row.kind, default))):
            print(f"  {'':<{width}}    {details}")
