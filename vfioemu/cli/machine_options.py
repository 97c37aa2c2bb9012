# SPDX-License-Identifier: MIT
"""Options that describe the emulated machine: a machine file, devices, or both."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.arguments import DeviceArgument, DeviceError, parse_device, with_devices
from vfioemu.daemon.config import ConfigError, load_machine
from vfioemu.devices.registry import load_models_and_classes

log: Final = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def _parse_devices(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> tuple[DeviceArgument, ...]:
    try:
        return tuple(parse_device(value) for value in values)
    except DeviceError as error:
        raise CommandError(str(error), error.hint, USAGE) from None


def device_option(function: F) -> F:
    """Add `--device`, which may be repeated."""
    return click.option(
        "-d",
        "--device",
        "devices",
        multiple=True,
        metavar="MODEL[,KEY=VALUE...]",
        callback=_parse_devices,
        help="A device: of `vfioemu devices`, or module:Class.",
    )(function)


def machine_of(machine_file: Path | None, devices: tuple[DeviceArgument, ...]) -> MachineSpec:
    """Build the machine that the options describe.

    Raises:
        CommandError: not a possible machine.
    """
    if machine_file is None and not devices:
        raise CommandError(
            "no device given",
            "--device MODEL, --machine FILE, or both; `vfioemu devices` lists models",
            USAGE,
        )
    try:
        models = load_models_and_classes()
        spec = MachineSpec() if machine_file is None else load_machine(machine_file, models)
        if machine_file is not None and not spec.devices and not devices:
            log.warning("%s: no [[group]] with a [[group.device]]: a machine without devices", machine_file)
        return with_devices(spec, devices, models)
    except ConfigError as error:
        raise CommandError(str(error), exit_code=USAGE) from None
    except DeviceError as error:
        raise CommandError(str(error), error.hint, USAGE) from None
