# SPDX-License-Identifier: MIT
"""Choose the machine for a trace file: a machine file like a user's, with names from the recording environment.

`machine.toml` beside this module describes the recording machine; `machine-FIRST.toml` that of families whose name begins with
``FIRST_`` (``aw39_map``: an IOMMU of 39 bits).
"""

import dataclasses
from pathlib import Path
from typing import Final

from vfioemu.conformance.trace import Environment, TraceError
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.config import load_machine

FOLDER: Final = Path(__file__).parent


def machine_file(family: str) -> Path:
    """Return the machine file of a family."""
    special = FOLDER / f"machine-{family.partition('_')[0]}.toml"
    return special if special.exists() else FOLDER / "machine.toml"


def profile_of(environment: Environment) -> str:
    """Return the profile of the recorded kernel: ``linux-6.12`` for ``6.12.107+deb13-amd64``."""
    return "linux-" + ".".join(environment.kernel.split(".")[:2])


def machine_for(
    family: str, environment: Environment, *, path: Path | None = None, profile: str | None = None
) -> MachineSpec:
    """Build the machine to replay a family on.

    Args:
        family: of the scenarios.
        environment: of the trace file; the machine's devices get the names and group numbers recorded there.
        path: a machine file; by default that of the family.
        profile: a kernel profile; by default that of the recorded kernel.

    Raises:
        TraceError: the machine cannot have the environment's devices.
    """
    spec = load_machine(path or machine_file(family))
    groups: dict[int, int] = {}
    devices = []
    for device in spec.devices:
        recorded = environment.devices.get(device.symbol)
        if recorded is None:
            devices.append(device)
            continue
        if groups.setdefault(device.group, recorded.group) != recorded.group:
            raise TraceError(
                f"{device.symbol} is in group {recorded.group} in the traces, but shares a group in the machine"
            )
        devices.append(dataclasses.replace(device, name=recorded.name, group=recorded.group))
    try:
        return dataclasses.replace(
            spec,
            profile=profile or profile_of(environment),
            groups=tuple(dataclasses.replace(g, number=groups.get(g.number, g.number)) for g in spec.groups),
            devices=tuple(devices),
        )
    except ValueError as error:
        raise TraceError(f"no machine for traces of Linux {environment.kernel}: {error}") from error
