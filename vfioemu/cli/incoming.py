# SPDX-License-Identifier: MIT
"""`vfioemu incoming`: an empty guest on a daemon, waiting for its contents."""

import os
import signal
from typing import Any

import click
import trio

from vfioemu.cli.display import Display, make_display
from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.cli.guest_options import address, daemon_failed, guest_options, guest_spec, socket_path
from vfioemu.cli.values import DURATION
from vfioemu.migration import events
from vfioemu.migration.address import AddressError, Listener
from vfioemu.migration.alive import watch
from vfioemu.migration.background import background
from vfioemu.migration.destination import Arrival, Destination
from vfioemu.migration.guestfile import GuestSpec
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
@click.pass_context
def command(ctx: click.Context, /, uri: str, **options: Any) -> int:
    """Receive a guest at URI (unix:PATH or tcp:127.0.0.1:PORT), compare it with the source's, and run it.

    The shell of the guest is built on the daemon of --runtime-dir. A migration that fails on its way leaves no trace;
    the next one is waited for.
    """
    quiet = bool(ctx.find_root().params.get("quiet"))
    spec, here, daemon = guest_spec(options), address(uri, options), socket_path(options)
    try:
        with here.listen() as listener, make_display(json=options["json"], quiet=quiet) as display:
            return trio.run(_receive, listener, spec, daemon, display, options)
    except AddressError as error:
        raise CommandError(str(error), exit_code=USAGE) from None
    except OSError as error:
        raise daemon_failed(daemon, error) from None


async def _receive(
    listener: Listener, spec: GuestSpec, daemon: str, display: Display, options: dict[str, Any]
) -> int:
    """Wait for the guest, and run it; Ctrl-C ends both."""
    async with open_guest(daemon, spec, running=False):
        pass  # what cannot be built is better known before somebody connects
    destination = Destination(
        lambda: open_guest(daemon, spec, running=False),
        listener,
        require_verify=options["verify"] == "required",
        tell=display.show,
    )
    code = CANCELLED

    async def receive() -> None:
        nonlocal code
        async with destination.arrival(options["attempts"]) as arrival:
            if arrival is None:
                code = FAILED
                return
            code = await _run(arrival, destination.narrator, options)
        if not arrival.confirmed:
            destination.narrator.warn("the source has not confirmed that it knows")

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with background() as nursery:

            async def end_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end_on_signal)
            if options["ready_fd"] is not None:
                _tell_ready(options["ready_fd"], str(listener.bound))
            await receive()
    _tell_end(destination, code)
    return code


async def _run(arrival: Arrival, narrator: Narrator, options: dict[str, Any]) -> int:
    await watch(arrival.guest, narrator, options["run_for"])
    if options["stay"]:
        await trio.sleep_forever()
    return MISMATCH if arrival.mismatches else 0


def _tell_ready(fd: int, uri: str) -> None:
    os.write(fd, f"{uri}\n".encode())
    os.close(fd)


def _tell_end(destination: Destination, code: int) -> None:
    last = destination.last_failure
    outcome = {0: "completed", MISMATCH: "completed", FAILED: "failed"}.get(code, "cancelled")
    destination.narrator.say(
        events.End(
            code=code,
            outcome=outcome,
            reason=Reason.LOST_WRITE
            if code == MISMATCH
            else last.reason
            if code and last is not None
            else None,
            detail=last.detail if code and last is not None else "",
        )
    )
