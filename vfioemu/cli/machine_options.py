# SPDX-License-Identifier: MIT
"""Options that say what is emulated: a machine file, devices, or both."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.arguments import DeviceError, Wish, parse_device, with_devices
from vfioemu.daemon.config import ConfigError, load_machine
from vfioemu.devices.registry import load_models_and_classes

log: Final = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def _wishes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Wish, ...]:
    try:
        return tuple(parse_device(value) for value in values)
    except DeviceError as error:
        raise CommandError(str(error), error.hint, USAGE) from None


def device_option(function: F) -> F:
    """`--device`, as often as one likes."""
    return click.option(
        "-d",
        "--device",
        "devices",
        multiple=True,
        metavar="MODEL[,KEY=VALUE...]",
        callback=_wishes,
        help="A device: of `vfioemu devices`, or module:Class.",
    )(function)


def machine_of(machine_file: Path | None, devices: tuple[Wish, ...]) -> MachineSpec:
    """The machine that the options describe.

    Raises:
        CommandError: they describe none.
    """
    if machine_file is None and not devices:
        raise CommandError(
            "no device is named",
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
