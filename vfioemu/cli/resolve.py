# SPDX-License-Identifier: MIT
"""`vfioemu migrate --resolve`: say what became of migrations whose client has died, or ended in doubt."""

from collections.abc import Mapping
from typing import Any, Final

import trio

from vfioemu.cli.display import Display, make_display
from vfioemu.cli.errors import FAILED, CommandError, report
from vfioemu.cli.guest_options import address
from vfioemu.cli.state_dir import journal
from vfioemu.migration import events
from vfioemu.migration.journal import Fate, Journal, Standing
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.peer import query
from vfioemu.migration.plan import Reason
from vfioemu.migration.resolve import resolve
from vfioemu.migration.stream import StreamError

PATIENCE: Final = 5.0
"""Seconds to wait for the answer of a destination."""
_CODES: Final = {Fate.MOVED: 0, Fate.NOT_MOVED: 3, Fate.ENDED: FAILED, Fate.RUNNING: 6, Fate.IN_DOUBT: 6}
_WORST: Final = (6, FAILED, 3, 0)


def resolve_all(uri: str | None, options: Mapping[str, Any], *, quiet: bool) -> int:
    """Tell the fate of each migration that nobody has been told of; return the worst exit code.

    Args:
        uri: ask there, and not where each migration went.
        options: of the command.
        quiet: say only what goes wrong.
    """
    if uri is not None:
        address(uri, options)  # before anything is asked: a URI that cannot be used is a usage error
    with journal(options["state_dir"]) as logs, make_display(json=options["json"], quiet=quiet) as display:
        fates = trio.run(_resolve, logs, uri, options, display)
    if not fates and not quiet and not options["json"]:
        print(" nothing is in doubt")
    codes = [_CODES[fate] for fate in fates]
    return min(codes, key=_WORST.index, default=0)


async def _resolve(
    logs: Journal, uri: str | None, options: Mapping[str, Any], display: Display
) -> list[Fate]:
    narrator = Narrator(display.show, "source")

    async def ask(where: str, token: str) -> tuple[Standing, str]:
        try:
            target = address(uri or where, options)
        except CommandError as error:
            report(error.message, error.hint)
            raise StreamError(Reason.PEER_LOST, error.message) from None
        with trio.move_on_after(PATIENCE):
            return (await query(target, token, PATIENCE))[:2]
        raise StreamError(Reason.PEER_SILENT, f"{target} does not answer within {PATIENCE:g} s")

    fates = []
    async for found in resolve(logs, ask):
        fates.append(found.fate)
        narrator.say(
            events.Resolved(
                token=found.token, guest=found.guest, uri=found.uri, fate=found.fate, detail=found.detail
            )
        )
    return fates
