# SPDX-License-Identifier: MIT
"""Find out what became of the migrations whose client is dead, or has ended in doubt.

The source's logs say which there are (journal.py). One without COMMIT is simple: nobody was told to start the guest. For
one with COMMIT the destination is asked, which refuses for ever by being asked if it has not started. If nobody answers, and
the destination's log lies in the same directory, and its process is dead, that log is settled as the destination itself
would do it after a restart.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from vfioemu.migration.journal import Fate, Journal, Log, Role, Standing
from vfioemu.migration.records import DamagedError, Record
from vfioemu.migration.stream import StreamError


@dataclass(frozen=True, slots=True)
class Resolved:
    """One migration.

    Attributes:
        detail: why nobody knows.
    """

    token: str
    guest: str
    uri: str
    fate: Fate
    detail: str = ""


async def resolve(
    journal: Journal, ask: Callable[[str, str], Awaitable[tuple[Standing, str]]]
) -> AsyncIterator[Resolved]:
    """Go through all migrations of which a source has left a log; what is settled is reported once.

    Args:
        journal: the source's.
        ask: asks a destination (its URI, the token) what became of it; StreamError if it does not know.
    """
    for token in list(journal.tokens(Role.SOURCE)):
        try:
            log = journal.take(Role.SOURCE, token)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            yield Resolved(token, "", "", Fate.RUNNING, "its client still runs")
            continue
        except (OSError, DamagedError) as error:
            yield Resolved(token, "", "", Fate.IN_DOUBT, f"its log cannot be read: {error}")
            continue
        try:
            found = await _resolve(journal, log, ask)
            yield found
            if found.fate is not Fate.IN_DOUBT:
                log.remove()
        finally:
            log.close()


async def _resolve(
    journal: Journal, log: Log, ask: Callable[[str, str], Awaitable[tuple[Standing, str]]]
) -> Resolved:
    first = log.entries[0] if log.entries else None
    guest, uri = (first.guest, first.uri) if first is not None else ("", "")
    fate, detail = conclude(log.records), ""
    if fate is Fate.IN_DOUBT:
        try:
            standing, _ = await ask(uri, log.token)
        except StreamError as error:
            standing, detail = journal.settle(log.token), error.detail
        fate = _FATES.get(standing, Fate.IN_DOUBT)
    return Resolved(log.token, guest, uri, fate, detail if fate is Fate.IN_DOUBT else "")


def conclude(records: list[Record]) -> Fate:
    """Read what a dead source knew; IN_DOUBT if only the destination can tell."""
    if Record.RELEASED in records:
        return Fate.MOVED
    if Record.COMMIT in records and Record.RESUMED not in records:
        return Fate.IN_DOUBT
    return Fate.NOT_MOVED


_FATES = {Standing.STARTED: Fate.MOVED, Standing.ENDED: Fate.ENDED, Standing.REFUSED: Fate.NOT_MOVED}
