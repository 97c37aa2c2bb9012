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
from vfioemu.migration.background import background
from vfioemu.migration.plan import Limits
from vfioemu.migration.result import Patience, Result
from vfioemu.migration.source import Source
from vfioemu.migration.vfio import open_guest

ALIVE = 0.3
_HINTS = {
    "not_converging": "allow more --downtime or --bandwidth, or let the guest write less",
    "device_state_too_large": "allow more --downtime",
    "peer_lost": "is `vfioemu incoming` running there?",
    "peer_untrusted": "--peer-uid names who may be at the other side",
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
@click.option(
    "--stop-timeout",
    type=DURATION,
    help="How long it may stand still before the destination has all of it; then it runs on here. [default: 5 s, 10"
    " times --downtime, and 2 s for each GiB to compare]",
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
    spec, target, daemon = guest_spec(options), address(uri, options), socket_path(options)
    limits = Limits(
        bandwidth=options["bandwidth"],
        downtime=options["downtime"],
        max_rounds=options["max_rounds"],
        max_seconds=options["timeout"],
    )

    result: Result | None = None

    async def run() -> None:
        nonlocal result
        signals = _Signals()
        async with background() as nursery:
            await nursery.start(signals.watch, nursery.cancel_scope)
            async with open_guest(daemon, spec, running=True) as guest:
                await trio.sleep(options["warm_up"])
                with make_display(json=options["json"], quiet=quiet) as display:
                    source = Source(
                        guest,
                        target,
                        limits,
                        verify=options["verify"],
                        tell=display.show,
                        patience=Patience(stopped=options["stop_timeout"]),
                        alive=ALIVE,
                    )
                    signals.source = source
                    result = await source.migrate()
                if options["stay"] and result.finish.source_runs:
                    await signals.another()

    try:
        trio.run(run)
    except OSError as error:
        raise daemon_failed(daemon, error) from None
    if result is None:
        return 128 + signal.SIGINT
    if result.code:
        _complain(result, target)
    return result.code


class _Signals:
    """SIGINT and SIGTERM: one before the migration ends the program, one during it cancels, another one ends all."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self._received = trio.Event()

    async def watch(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Handle signals until cancelled."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self._received.set()
                if self.source is None:
                    scope.cancel()
                elif self.source.result is not None:
                    pass  # `another` waits for it, or the program ends anyway
                elif self.source.cancelling:
                    os._exit(128 + number)  # nothing less ends a rollback, and the guest with it
                elif not self.source.cancel():
                    print(" too late to cancel: the destination has been told to start", file=sys.stderr)

    async def another(self) -> None:
        """Wait for the next signal."""
        self._received = trio.Event()
        await self._received.wait()


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
