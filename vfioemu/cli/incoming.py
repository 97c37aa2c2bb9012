# SPDX-License-Identifier: MIT
"""`vfioemu incoming`: build an empty guest on a daemon, and receive its contents."""

import os
from contextlib import AbstractAsyncContextManager
from typing import Any

import click
import trio

from vfioemu.cli.display import Display, make_display
from vfioemu.cli.errors import USAGE, CommandError, report
from vfioemu.cli.guest_options import (
    address,
    guest_options,
    guest_spec,
    limit_options,
    place_options,
    socket_path,
)
from vfioemu.cli.hints import daemon_failed
from vfioemu.cli.signals import Signals, name_of
from vfioemu.cli.state_dir import journal, state_dir_option
from vfioemu.cli.values import DURATION
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import AddressError, Listener
from vfioemu.migration.alive import watch
from vfioemu.migration.background import background
from vfioemu.migration.destination import Arrival, Destination
from vfioemu.migration.guest import Guest
from vfioemu.migration.guestspec import GuestSpec
from vfioemu.migration.journal import Journal
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import Reason
from vfioemu.migration.vfio import open_guest

FAILED, CANCELLED, MISMATCH = 3, 4, 5


@click.command(name="incoming")
@click.argument("uri")
@guest_options
@click.option(
    "--verify",
    type=click.Choice(["offered", "required"]),
    default="offered",
    show_default=True,
    help="Whether a source may come that does not want its pages compared.",
)
@click.option(
    "--attempts", type=click.IntRange(1), help="End after so many failed migrations. [default: never]"
)
@click.option(
    "--run-for", type=DURATION, default="1s", show_default=True, help="How long the guest runs here."
)
@click.option("--stay", is_flag=True, help="Run it until Ctrl-C.")
@click.option(
    "--ready-fd", type=click.IntRange(0), help="Write the URI to this fd when connections are accepted."
)
@limit_options
@place_options
@state_dir_option
@click.pass_context
def command(ctx: click.Context, /, uri: str, **options: Any) -> int:
    """Receive a guest at URI (unix:PATH or tls:HOST:PORT), compare it with the source's, and run it.

    The shell of the guest is built on the daemon of --runtime-dir. A migration that fails on its way leaves no trace;
    the next one is waited for.
    """
    signals = Signals()
    quiet = bool(ctx.find_root().params.get("quiet"))
    if options["ready_fd"] is not None:
        _check_fd(options["ready_fd"])
    spec, here, daemon = guest_spec(options), address(uri, options, listens=True), socket_path(options)
    try:
        with (
            journal(options["state_dir"]) as logs,
            here.listen() as listener,
            make_display(json=options["json"], quiet=quiet) as display,
        ):
            code = trio.run(_receive, listener, spec, daemon, display, signals, logs, options)
    except AddressError as error:
        raise CommandError(str(error), exit_code=USAGE) from None
    except OSError as error:
        raise daemon_failed(daemon, error) from None
    return code


async def _receive(
    listener: Listener,
    spec: GuestSpec,
    daemon: str,
    display: Display,
    signals: Signals,
    logs: Journal,
    options: dict[str, Any],
) -> int:
    """Wait for the guest, and run it; a signal ends both."""
    code = CANCELLED
    ended_by: list[int] = []

    def shell() -> AbstractAsyncContextManager[Guest]:
        return open_guest(daemon, spec, running=False, call_timeout=options["call_timeout"])

    destination = Destination(
        shell,
        listener,
        idle=options["peer_timeout"],
        linger=options["peer_timeout"],
        max_device_state=options["max_device_state"],
        require_verify=options["verify"] == "required",
        tell=display.show,
        journal=logs,
    )

    async def receive() -> None:
        nonlocal code
        async with shell():
            pass  # try to build the guest before a source connects
        if options["ready_fd"] is not None:
            _tell_ready(options["ready_fd"], str(listener.bound))
        async with destination.arrival(options["attempts"]) as arrival:
            if arrival is None:
                code = FAILED
                return
            # From here on nothing changes the outcome.
            code = signals.outcome = MISMATCH if arrival.mismatches else 0
            await _run(arrival, destination.narrator, options)
        if not arrival.confirmed:
            destination.narrator.warn("the source has not confirmed that it knows")

    try:
        async with background() as nursery:

            def end(number: int) -> None:
                ended_by.append(number)
                destination.hurry()
                nursery.cancel_scope.cancel()
                if len(ended_by) > 2:
                    doing = "being started" if signals.outcome is None else "being let go"
                    report(f"{name_of(number)} again: ended while the guest was {doing}")
                    signals.end_at_once(number)

            nursery.start_soon(signals.watch, end)
            await receive()
    finally:
        signals.settle()  # before trio.run() ends: a signal after it would raise in _handle
    _tell_end(destination, code)
    if code == FAILED:
        raise CommandError(
            f"{destination.failures} of {options['attempts']} migrations have failed; the last: {destination.last_failure}",
            exit_code=FAILED,
        )
    if code == CANCELLED:
        raise CommandError(f"{name_of(ended_by[0])} before a guest arrived", exit_code=CANCELLED)
    if code == MISMATCH:
        raise CommandError("the guest has arrived, and is not the same as at the source", exit_code=MISMATCH)
    return code


async def _run(arrival: Arrival, narrator: Narrator, options: dict[str, Any]) -> None:
    await watch(arrival.guest, narrator, options["run_for"])
    if options["stay"]:
        await trio.sleep_forever()


def _check_fd(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError as error:
        raise CommandError(f"--ready-fd {fd}: {error.strerror}", exit_code=USAGE) from None


def _tell_ready(fd: int, uri: str) -> None:
    try:
        os.write(fd, f"{uri}\n".encode())
    except OSError:
        pass  # the reader has closed its end
    os.close(fd)


def _tell_end(destination: Destination, code: int) -> None:
    last = destination.last_failure
    told: dict[str, Any] = {"outcome": Outcome.CANCELLED, "reason": Reason.CANCELLED}
    if code in (0, MISMATCH):
        told = {
            "outcome": Outcome.COMPLETED,
            "reason": Reason.MISMATCH if code else None,
            "runs": "destination",
        }
    elif code == FAILED and last is not None:
        told = {"outcome": Outcome.FAILED, "reason": last.reason, "detail": last.detail}
        told |= events.failure(last.errno, last.call)
    destination.narrator.say(events.End(code=code, **told))
