# SPDX-License-Identifier: MIT
"""`vfioemu migrate`: a guest on one daemon, and its way to another."""

import os
import signal
import sys
from typing import Any

import click
import trio

from vfioemu.cli.display import make_display
from vfioemu.cli.errors import FAILED, CommandError
from vfioemu.cli.guest_options import address, daemon_failed, guest_options, guest_spec, socket_path
from vfioemu.cli.values import DURATION, RATE
from vfioemu.migration.address import Address
from vfioemu.migration.plan import Limits
from vfioemu.migration.source import Result, Source
from vfioemu.migration.vfio import open_guest

ALIVE = 0.3
_HINTS = {
    "not_converging": "allow more --downtime or --bandwidth, or let the guest write less",
    "device_state_too_large": "allow more --downtime",
    "peer_lost": "is `vfioemu incoming` running there?",
    "peer_refused": "both sides need the same guest file, and daemons with the same devices",
}


@click.command(name="migrate")
@click.argument("uri")
@guest_options
@click.option(
    "--bandwidth", type=RATE, default="0", help="Limit while the guest runs, as 128MiB/s. [default: none]"
)
@click.option(
    "--downtime", type=DURATION, default="300ms", show_default=True, help="How long it may stand still."
)
@click.option(
    "--max-rounds", type=click.IntRange(1), default=30, show_default=True, help="Then it does not converge."
)
@click.option(
    "--timeout", type=DURATION, default="0", help="The same for the whole pre-copy phase. [default: none]"
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare all pages and devices.")
@click.option(
    "--warm-up", type=DURATION, default="500ms", show_default=True, help="Let the guest run before."
)
@click.option("--stay", is_flag=True, help="After a failure, run the guest on until Ctrl-C.")
@click.pass_context
def command(ctx: click.Context, /, uri: str, **options: Any) -> int:
    """Move a guest to URI (unix:PATH or tcp:127.0.0.1:PORT), where `vfioemu incoming` waits.

    The guest is built on the daemon of --runtime-dir and runs while it moves. Ctrl-C cancels: the guest runs on here.
    """
    quiet = bool(ctx.find_root().params.get("quiet"))
    spec, target, daemon = guest_spec(options), address(uri), socket_path(options)
    limits = Limits(
        bandwidth=options["bandwidth"],
        downtime=options["downtime"],
        max_rounds=options["max_rounds"],
        max_seconds=options["timeout"],
    )

    async def run() -> Result:
        async with open_guest(daemon, spec, running=True) as guest:
            await trio.sleep(options["warm_up"])
            with make_display(json=options["json"], quiet=quiet) as display:
                source = Source(
                    guest, target, limits, verify=options["verify"], tell=display.show, alive=ALIVE
                )
                result = await _migrate(source)
            if result.finish.source_runs and options["stay"]:
                await _stay()
            return result

    try:
        result = trio.run(run)
    except OSError as error:
        raise daemon_failed(daemon, error) from None
    if result.code:
        _complain(result, target)
    return result.code


async def _migrate(source: Source) -> Result:
    """Migrate; the first Ctrl-C cancels, the second one ends the program, and the guest with it."""

    async def cancel_on_signal() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if source.cancelling:
                    os._exit(128 + number)  # nothing less ends a rollback
                if not source.cancel():
                    print(" too late to cancel: the destination has been told to start", file=sys.stderr)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal)
        result = await source.migrate()
        nursery.cancel_scope.cancel()
    return result


async def _stay() -> None:
    """Let the guest live on until a signal."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


def _complain(result: Result, target: Address) -> None:
    finish = result.finish
    if result.code == FAILED:
        raise CommandError(f"devices that could not be resumed: {', '.join(finish.lost_devices)}")
    what = {
        3: f"the migration to {target} failed: {finish.reason}: {finish.detail}",
        4: "the migration was cancelled",
        5: f"the guest runs on {target}, but {finish.mismatches} pages or devices differ",
        6: f"nobody knows whether {target} runs the guest: {finish.detail}",
        9: f"the migration cannot begin: {finish.reason}: {finish.detail}",
    }[result.code]
    raise CommandError(what, _HINTS.get(finish.reason or "", ""), result.code)
