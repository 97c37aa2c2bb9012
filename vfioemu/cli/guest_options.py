# SPDX-License-Identifier: MIT
"""Options that `migrate` and `incoming` share: the guest, the daemon, and the peer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.cli.values import DURATION, SIZE
from vfioemu.cli.where import directory, runtime_dir_option
from vfioemu.daemon.runtime_dir import SOCKET
from vfioemu.migration.address import Address, AddressError
from vfioemu.migration.deadlines import CALL_TIMEOUT
from vfioemu.migration.guestfile import GuestFileError, check, load_guest
from vfioemu.migration.guestspec import (
    ContainerSpec,
    CpuSpec,
    DeviceSpec,
    GuestSpec,
    MemorySpec,
    ProgramSpec,
)
from vfioemu.migration.peers import Peers
from vfioemu.migration.plan import MAX_DEVICE_STATE, PAGE
from vfioemu.migration.tls import TlsFiles
from vfioemu.migration.transport import BEAT, IDLE
from vfioemu.migration.workload.stamps import MAX_CPUS as MAX_STAMPED

F = TypeVar("F", bound=Callable[..., Any])
FOUR_GIB = 1 << 32
LOW_RAM = 3 << 30
MAX_RAM = 1 << 47
SHORTEST = 1.0
"""Seconds: shorter waits would end what is only slow."""


def guest_options(function: F) -> F:
    """Add the options that describe the guest."""
    for option in reversed(
        (
            click.option(
                "-g",
                "--guest",
                "guest_file",
                type=click.Path(path_type=Path, dir_okay=False),
                help="The guest: a TOML file, the same on both sides.",
            ),
            click.option(
                "--ram", type=SIZE, default="64MiB", show_default=True, help="RAM, without --guest."
            ),
            click.option(
                "--cpus",
                type=click.IntRange(0, MAX_STAMPED),
                default=1,
                show_default=True,
                help="CPUs, without --guest.",
            ),
            click.option(
                "--device",
                "devices",
                multiple=True,
                metavar="GROUP:NAME",
                help="A dma-engine, without --guest; each in a container of its own.",
            ),
        )
    ):
        function = option(function)
    return function


def place_options(function: F) -> F:
    """Add the options for the daemon, the peer and the output."""
    for option in reversed(
        (
            runtime_dir_option,
            click.option("--json", is_flag=True, help="Print events, one JSON object a line."),
            click.option(
                "--insecure",
                is_flag=True,
                help="Use tcp:, which is neither authenticated nor encrypted.",
            ),
            click.option("--tls-cert", metavar="FILE", help="With tls:, our certificate (PEM)."),
            click.option("--tls-key", metavar="FILE", help="With tls:, its private key."),
            click.option("--tls-ca", metavar="FILE", help="With tls:, whose certificates are taken."),
            click.option(
                "--tls-name",
                metavar="NAME",
                help="With tls:, whom the other side's certificate is for. [default: the host that is connected to;"
                " whoever connects]",
            ),
            click.option(
                "--peer-uid",
                "peer_uids",
                multiple=True,
                metavar="UID",
                callback=_uids,
                help="Whose the other side may be, or `any`. [default: yours, root's]",
            ),
        )
    ):
        function = option(function)
    return function


def limit_options(function: F) -> F:
    """Add the options for what is waited for, and how much is taken."""
    for option in reversed(
        (
            click.option(
                "--call-timeout",
                type=DURATION,
                default=f"{CALL_TIMEOUT:g}s",
                show_default=True,
                callback=_some_time,
                help="How long a call to the daemon may take.",
            ),
            click.option(
                "--peer-timeout",
                type=DURATION,
                default=f"{IDLE:g}s",
                show_default=True,
                callback=_some_time,
                help="How long the other side may be silent, or need for an answer.",
            ),
            click.option(
                "--max-device-state",
                type=SIZE,
                default=f"{MAX_DEVICE_STATE >> 30}GiB",
                show_default=True,
                help="How large the state of a device may be.",
            ),
        )
    ):
        function = option(function)
    return function


def _some_time(_: click.Context, parameter: click.Parameter, value: float) -> float:
    if value < SHORTEST:
        raise CommandError(
            f"--{(parameter.name or '').replace('_', '-')} {value:g}s is shorter than {SHORTEST:g}s: an idle peer gives"
            f" a sign of life every {BEAT:g}s",
            exit_code=USAGE,
        )
    return value


def _uids(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Peers | None:
    if not values:
        return None
    if "any" in values:
        return Peers(None)
    for value in values:
        if not (value.isascii() and value.isdecimal() and int(value[:11]) < 1 << 32):
            raise CommandError(f"--peer-uid {value!r}: expected a number or `any`", exit_code=USAGE)
    return Peers(frozenset(map(int, values)))


def socket_path(options: Mapping[str, Any]) -> str:
    """Return the socket of the daemon that the options name."""
    return str(directory(options["runtime_dir"], options["instance"]) / SOCKET)


def guest_spec(options: Mapping[str, Any]) -> GuestSpec:
    """Return the guest that the options describe.

    Raises:
        CommandError: not a possible guest; exit code 2.
    """
    try:
        if options["guest_file"] is not None:
            return load_guest(options["guest_file"])
    except GuestFileError as error:
        raise CommandError(str(error), "docs/migration.md shows a guest file with every key", USAGE) from None
    spec = _small_guest(options["ram"], options["cpus"], options["devices"])
    try:
        check(spec)
    except GuestFileError as error:
        raise CommandError(f"--device: {error}", exit_code=USAGE) from None
    return spec


def address(uri: str, options: Mapping[str, Any], *, listens: bool = False) -> Address:
    """Parse a URI; `listens`: it is where we listen.

    Raises:
        CommandError: not a usable URI; exit code 2.
    """
    try:
        parsed = Address.parse(
            uri, insecure=options["insecure"], peers=options["peer_uids"], tls=_tls_files(options)
        )
        if listens:
            parsed.require_no_link()
        return parsed
    except AddressError as error:
        raise CommandError(
            str(error),
            'docs/migration.md, "Between two machines", says what unix:, tls: and tcp: are for',
            USAGE,
        ) from None


def _tls_files(options: Mapping[str, Any]) -> TlsFiles | None:
    cert, key, ca, name = (options[f"tls_{what}"] for what in ("cert", "key", "ca", "name"))
    if cert is None and key is None and ca is None and name is None:
        return None
    if cert is None or key is None or ca is None:
        raise AddressError("--tls-cert, --tls-key and --tls-ca go together")
    return TlsFiles(cert=cert, key=key, ca=ca, name=name)


def _small_guest(ram: int, cpus: int, devices: tuple[str, ...]) -> GuestSpec:
    """Make a guest from --ram, --cpus and --device.

    Three quarters of RAM lie below 4 GiB, as far as there is room, the rest above. CPUs write the lower part, devices the upper.
    """
    if ram % PAGE or not 0 < ram <= MAX_RAM:
        raise CommandError(
            f"--ram {ram} is not a multiple of {PAGE} in {PAGE}..{MAX_RAM:#x}", exit_code=USAGE
        )
    low = min(ram - ram // 4 // PAGE * PAGE, LOW_RAM)
    memory = [MemorySpec(name="low", size=low)]
    if ram > low:
        memory.append(MemorySpec(name="high", base=FOUR_GIB, size=ram - low))
    containers = []
    for index, text in enumerate(devices):
        group, colon, name = text.partition(":")
        if not (colon and name and group.isascii() and group.isdecimal() and len(group) <= 10):
            raise CommandError(
                f"--device {text[:100]!r}: expected GROUP:NAME, as 12:00000000-0000-4000-8000-000000000001",
                exit_code=USAGE,
            )
        program = ProgramSpec(memory=memory[-1].name)
        device = DeviceSpec(name=f"dma{index}", group=int(group), device=name, program=program)
        containers.append(ContainerSpec(name=f"c{index}", device=[device]))
    return GuestSpec(memory=memory, cpu=[CpuSpec(memory="low") for _ in range(cpus)], container=containers)
