# SPDX-License-Identifier: MIT
"""`vfioemu migrate`: build a guest on one daemon, and move it to another."""

import errno
import os
import sys
from typing import Any

import click
import trio

from vfioemu.cli.display import Building, make_display
from vfioemu.cli.errors import FAILED, USAGE, CommandError, report
from vfioemu.cli.guest_options import (
    address,
    guest_options,
    guest_spec,
    limit_options,
    place_options,
    socket_path,
)
from vfioemu.cli.hints import daemon_failed
from vfioemu.cli.resolve import resolve_all
from vfioemu.cli.signals import Signals, name_of
from vfioemu.cli.state_dir import journal, state_dir_option
from vfioemu.cli.values import DURATION, RATE
from vfioemu.migration import policies
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.background import background
from vfioemu.migration.doubt import IN_DOUBT
from vfioemu.migration.messages import MAX_STREAMS
from vfioemu.migration.pace import SLOWEST
from vfioemu.migration.plan import PAGE, Limits, OnMismatch, Reason
from vfioemu.migration.reasons import MEANINGS
from vfioemu.migration.result import Patience, Result
from vfioemu.migration.source import Source
from vfioemu.migration.vfio import open_guest

ALIVE = 0.3


@click.command(name="migrate")
@click.argument("uri", required=False)
@guest_options
@click.option(
    "--downtime",
    type=DURATION,
    default="300ms",
    show_default=True,
    help="How long it should stand still at most.",
)
@click.option(
    "--bandwidth",
    type=RATE,
    default="0",
    help="Limit while the guest runs, as 128MiB/s; 1KiB/s at least. [default: none]",
)
@click.option(
    "--wait",
    type=DURATION,
    default="0",
    help="How long to wait until `vfioemu incoming` listens. [default: not]",
)
@click.option(
    "--policy",
    type=click.Choice(policies.names()),
    default="precopy-limits",
    show_default=True,
    help="Who decides when it stops, whether its CPUs are slowed down, and when to give up.",
)
@click.option(
    "--max-outage",
    type=DURATION,
    help="How long it may stand still; then it runs on here. 0: as long as it takes. [default: 5 s, 10 times --downtime,"
    " and 2 s for each GiB to compare]",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare all pages and devices.")
@click.option(
    "--on-mismatch",
    type=click.Choice([choice.value for choice in OnMismatch]),
    default=OnMismatch.ABORT.value,
    show_default=True,
    help="What becomes of a guest that is not the same there: it stays here, or moves all the same.",
)
@click.option(
    "--streams",
    type=click.IntRange(1, MAX_STREAMS),
    default=1,
    show_default=True,
    help="Connections that pages go on.",
)
@click.option("--stay", is_flag=True, help="After a failure, run the guest on until Ctrl-C.")
@place_options
@state_dir_option
@click.option(
    "--resolve",
    is_flag=True,
    help="Move nothing: say what became of migrations that ended in doubt, or whose client was killed. URI: ask there.",
)
@click.option(
    "--timeout",
    type=DURATION,
    help="How long it may take before the guest is stopped; then it does not converge. 0: for ever. [default: 60 s, and 20"
    " times what its RAM takes at --bandwidth, or at 128MiB/s]",
)
@click.option(
    "--max-rounds",
    type=click.IntRange(1),
    help="How many rounds it may take, the first one included. [default: any number]",
)
@limit_options
@click.option(
    "--warm-up", type=DURATION, default="500ms", show_default=True, help="Let the guest run before."
)
@click.pass_context
def command(ctx: click.Context, /, uri: str | None, **options: Any) -> int:
    """Move a guest to URI (unix:PATH, tls:HOST:PORT, or sim:LINK:URI), where `vfioemu incoming` waits.

    The guest is built on the daemon of --runtime-dir and runs while it moves. Ctrl-C cancels: the guest runs on here.
    docs/migration.md shows how, and what a LINK is.
    """
    if options["resolve"]:
        return resolve_all(uri, options, quiet=bool(ctx.find_root().params.get("quiet")))
    if uri is None:
        raise click.MissingParameter(ctx=ctx, param_hint="'URI'", param_type="argument")
    if 0 < options["bandwidth"] < SLOWEST:
        raise CommandError(
            f"--bandwidth {options['bandwidth']} bytes per second cannot be kept: a page would take"
            f" {PAGE / options['bandwidth']:.3g} s; the least is {SLOWEST}",
            exit_code=USAGE,
        )
    signals = Signals()
    quiet = bool(ctx.find_root().params.get("quiet"))
    spec, target, daemon = guest_spec(options), address(uri, options), socket_path(options)
    limits = Limits(
        bandwidth=options["bandwidth"],
        downtime=options["downtime"],
        max_outage=options["max_outage"],
        max_rounds=options["max_rounds"] or 0,
        max_device_state=options["max_device_state"],
        max_seconds=options["timeout"],
        on_mismatch=OnMismatch(options["on_mismatch"]),
    )
    migration = _Migration(signals)

    async def run() -> None:
        try:
            async with background() as nursery:
                migration.end_all = nursery.cancel_scope
                nursery.start_soon(signals.watch, migration.interrupt)
                async with open_guest(
                    daemon,
                    spec,
                    running=True,
                    progress=None if quiet or options["json"] else Building(),
                    call_timeout=options["call_timeout"],
                ) as guest:
                    await trio.sleep(options["warm_up"])
                    with make_display(json=options["json"], quiet=quiet) as display:
                        source = Source(
                            guest,
                            target,
                            limits,
                            policy=policies.load(options["policy"]),
                            verify=options["verify"],
                            tell=display.show,
                            patience=Patience.for_all(options["peer_timeout"], options["wait"]),
                            alive=ALIVE,
                            journal=logs,
                            streams=options["streams"],
                        )
                        migration.source = source
                        result = await source.migrate()
                        signals.outcome = result.code
                    if options["stay"] and result.finish.source_runs:
                        await migration.another.wait()
        finally:
            signals.settle()  # before trio.run() ends: a signal after it would raise in _handle

    failed: OSError | None = None
    try:
        with journal(options["state_dir"]) as logs:
            trio.run(run)
    except OSError as error:
        failed = error
    result = migration.source.result if migration.source is not None else None
    if result is None and migration.ended_by is not None:
        raise CommandError(
            f"{name_of(migration.ended_by)} before the migration began", exit_code=128 + migration.ended_by
        )
    if result is None or (failed is not None and not result.code):
        raise daemon_failed(daemon, failed or OSError(errno.EIO, "the migration has no result"))
    if result.code:
        _complain(result, target)
    return result.code


class _Migration:
    """React to signals: before the migration one ends the program; during it the first cancels, another ends everything.

    Attributes:
        source: set once the migration has begun.
        ended_by: the signal that came before the migration.
        end_all: cancels everything.
        another: set by a signal after the migration.
    """

    def __init__(self, signals: Signals) -> None:
        self.source: Source | None = None
        self.ended_by: int | None = None
        self.end_all: trio.CancelScope | None = None
        self.another = trio.Event()
        self._signals = signals
        self._too_late = False

    def interrupt(self, number: int) -> None:
        """React to a signal."""
        source = self.source
        if source is None:
            self.ended_by = number
            if self.end_all is not None:
                self.end_all.cancel()
        elif source.result is not None:
            self.another.set()
        elif source.cancelling:
            self._end_at_once(
                f"{name_of(number)} again: the guest ends here, nothing was rolled back", 128 + number
            )
        elif not source.cancel():
            if self._too_late:
                self._end_at_once(
                    "nobody knows whether the destination runs the guest: its answer was not waited for", 6
                )
            self._too_late = True
            report(
                "too late to cancel: the destination has been told to start the guest; its answer is waited for no"
                f" longer than {IN_DOUBT:g} s"
            )

    def _end_at_once(self, why: str, code: int) -> None:
        self._signals.settle()
        report(why)
        sys.stdout.flush()
        os._exit(code)  # a rollback is shielded from cancellation


def _where(result: Result, target: Address) -> str:
    if result.finish.outcome is Outcome.COMPLETED:
        return f"the guest runs on {target} and is not what it was"
    return "the guest was not moved and runs here"


def _complain(result: Result, target: Address) -> None:
    finish = result.finish
    if finish.outcome is Outcome.LOST:
        raise CommandError(
            f"the guest runs nowhere: {finish.detail}",
            MEANINGS[Reason.GUEST_ENDED].remedy,
            result.code,
        )
    if result.code == FAILED:
        which = f"devices that do not run: {', '.join(finish.lost_devices)}; " if finish.lost_devices else ""
        raise CommandError(
            f"the migration to {target} failed ({finish.reason}), and the source does not run the guest: {which}"
            f"{finish.why_lost}"
        )
    hint = MEANINGS[finish.reason].remedy if finish.reason is not None else ""
    if finish.outcome in (Outcome.COMPLETED, Outcome.CANCELLED):
        hint = ""  # it has moved already, or the user has wanted it
    what = {
        3: f"the migration to {target} failed: {finish.reason}: {finish.detail}",
        4: "the migration was cancelled",
        5: f"{_where(result, target)}, since {finish.detail}",
        6: f"nobody knows whether {target} runs the guest: {finish.detail}",
        9: f"the migration cannot begin: {finish.reason}: {finish.detail}",
    }[result.code]
    if finish.outcome is Outcome.IN_DOUBT:
        hint = "`vfioemu migrate --resolve` asks again; start `vfioemu incoming` again with the same --state-dir if it has died"
    raise CommandError(what, hint, result.code)
