# SPDX-License-Identifier: MIT
"""`vfioemu mdev`: mediated devices of a running daemon, with the verbs of mdevctl."""

import json
import signal
import sys
from pathlib import Path

import click

from vfioemu.cli.where import answer, ask, connected, directory, runtime_dir_option
from vfioemu.devices.options import read_pairs


@click.group(name="mdev")
def command() -> None:
    """Create and remove mediated devices of a running daemon."""


@command.command()
@runtime_dir_option
@click.option("--dumpjson", is_flag=True, help="As JSON.")
def types(runtime_dir: Path | None, instance: str, dumpjson: bool) -> None:
    """List the types of which devices can be made."""
    found = ask(runtime_dir, instance, "mdev-types")
    if dumpjson:
        print(json.dumps(found, indent=2))
        return
    for entry in found:
        print(
            f"{entry['id']}\n  Available instances: {entry['available']}\n  Description: {entry['description']}"
        )
        for option, meaning in entry["options"].items():
            print(f"    {option}: {meaning}")


@command.command(name="list")
@runtime_dir_option
@click.option("--dumpjson", is_flag=True, help="As JSON.")
def list_devices(runtime_dir: Path | None, instance: str, dumpjson: bool) -> None:
    """List the devices that were started: uuid, type, group."""
    found = ask(runtime_dir, instance, "mdev-list")
    if dumpjson:
        print(json.dumps(found, indent=2))
        return
    for entry in found:
        state = "open" if entry["open"] else "idle"
        print(f"{entry['name']} {entry['model']} /dev/vfio/{entry['group']} {state}")


@command.command()
@runtime_dir_option
@click.option("-t", "--type", "model", required=True, help="One of `vfioemu mdev types`.")
@click.option("-u", "--uuid", help="Its name; made up, and printed, if absent.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="For the device model.")
def start(
    runtime_dir: Path | None, instance: str, model: str, uuid: str | None, options: tuple[str, ...]
) -> None:
    """Create a device in a group of its own; prints uuid and group node."""
    try:
        arguments: dict[str, object] = {"type": model, "options": read_pairs(options)}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--option") from None
    if uuid is not None:
        arguments["uuid"] = uuid
    made = ask(runtime_dir, instance, "mdev-start", **arguments)
    print(f"{made['name']} /dev/vfio/{made['group']}")


@command.command()
@runtime_dir_option
@click.option("-u", "--uuid", required=True, help="Which.")
def stop(runtime_dir: Path | None, instance: str, uuid: str) -> None:
    """Remove a device. If it is open, its user is asked to close it (REQ) every ten seconds.

    Ctrl-C ends the waiting, not the removal: the device is removed as soon as it is closed.
    """
    found = ask(runtime_dir, instance, "mdev-list")
    if any(entry["open"] for entry in found if entry["name"] == uuid.lower()):
        print("the device is open; its user is asked to close it, waiting", file=sys.stderr)
    try:
        with connected(directory(runtime_dir, instance), None) as control:
            answer(control, "mdev-stop", uuid=uuid)
    except KeyboardInterrupt:
        print("the device is removed as soon as it is closed", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
