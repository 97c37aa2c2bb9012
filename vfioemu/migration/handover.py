# SPDX-License-Identifier: MIT
"""The destination's half of the hand-over, as a state machine with a journal; the source's half is in the engine.

    source                              destination
      |  everything, then PREPARE(token)   |
      |----------------------------------->|  loads and verifies all: READY
      |<-----------------------------------|
      |  COMMIT(token)                     |
      |----------------------------------->|  STARTING, then STARTED (or REFUSED, if a device does not start)
      |<-----------------------------------|

If the connection breaks before COMMIT arrives, the destination refuses the token for ever, because the source resumes.
If it breaks after the source sent COMMIT, the source asks QUERY(token) on a new connection: the answer is STARTED, or
the destination refuses for ever *by being asked*, and the source may resume. A token of which there is no record
is answered UNKNOWN, which settles nothing: another process may have run the guest and ended.

What survives the death of this process is in the journal (journal.py): READY before it is said, STARTED before the guest is started,
REFUSED before that is said of a guest that did not start. A destination that is started again with the same directory answers for
the dead one. With READY alone the guest's memory has died with it, so it refuses. With STARTED the guest may have run,
if only for a moment, and has died: the source may not go back to what it was before that moment, and says so (ENDED).
STARTED stands in the journal *before* the start, because the other order has a moment in which the guest runs and a death makes it
a guest that never ran. The price is a moment in which a death loses a guest that never ran; that is a crash, and no second owner.

Why like that. What must never happen is that both run the guest: its devices would write to two worlds. That neither runs it is bad,
and can be mended by hand. No protocol over a connection that may break can rule out both for certain (the two generals), so
the doubt is put where it does the least harm, and is as short as it can be: from the moment in which COMMIT was sent until the
source has any answer. In it the source does not resume, whatever it has waited for; it asks, and says "in doubt" (exit status 6) if nobody
answers. Silence is not an answer: a source that resumed on it is planted in the tests, and is found (tests/migration/test_explorer.py).

What was thought of, and is not done: a lease that expires (needs clocks that agree, and a destination that is stopped by SIGSTOP would
wake up with the guest), and a third party that decides (one more who can die).
"""

import errno
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.files import Volatile
from vfioemu.migration.journal import Journal, Log, Role, Standing
from vfioemu.migration.plan import Reason
from vfioemu.migration.records import Record

__all__ = ["Handover", "Refusal", "Standing", "Start"]

ASKED = "refused for ever, because somebody asked"


@dataclass(frozen=True, slots=True)
class Start:
    """Start the guest; answered by None when it runs, and by a Refusal when nothing of it runs."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the guest does not run here; `errno` and `call` are those of a call that failed."""

    reason: Reason
    detail: str
    errno: int | None = None
    call: FailedCall | None = None


TakingOver: TypeAlias = Generator[Start, Refusal | None, Refusal | None]


class Handover:
    """All tokens that one destination process has ever accepted, and what became of each.

    The memory of a refusal may not be lost as long as the process lives; one entry per accepted migration is small.

    Args:
        journal: what is known after the death of this process; None: nothing.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal or Journal(Volatile())
        self._standing: dict[str, Standing] = {}
        self._logs: dict[str, Log] = {}

    def standing(self, token: str) -> Standing:
        """How things are; UNKNOWN for a token that this process has not accepted."""
        return self._standing.get(token, Standing.UNKNOWN)

    def accept(self, token: str, guest: str = "") -> bool:
        """Begin to load; False for a token that was seen before (a replayed stream must not be loaded twice).

        Raises:
            OSError: the journal cannot be written.
        """
        if token in self._standing:
            return False
        try:
            self._logs[token] = self._journal.begin(Role.DESTINATION, token, guest=guest)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        self._standing[token] = Standing.LOADING
        return True

    def prepared(self, token: str) -> Refusal | None:
        """Everything is here; a Refusal when the token was refused meanwhile, or the journal cannot be written."""
        if self.standing(token) is not Standing.LOADING:
            return Refusal(Reason.PEER_REFUSED, ASKED)
        try:
            self._logs[token].write(Record.READY)
        except OSError as error:
            self.lost(token)
            return _not_written(Record.READY, error)
        self._standing[token] = Standing.READY
        return None

    def take_over(self, token: str) -> TakingOver:
        """COMMIT has come: have the guest started, if that may be; returns None when it runs, else what to answer."""
        if self.standing(token) is not Standing.READY:
            return Refusal(Reason.PEER_REFUSED, ASKED)
        try:
            self._logs[token].write(Record.STARTED)
        except OSError as error:
            # A part of the record, or all of it, may be there; the guest is not started, so it says so if it can.
            refusal = _not_written(Record.STARTED, error)
            self._refuse(token, refusal.detail)
            return refusal
        self._standing[token] = Standing.STARTING
        failure = yield Start()
        if failure is not None:
            self._refuse(token, failure.detail)
            return failure
        self._standing[token] = Standing.STARTED
        return None

    def released(self, token: str) -> None:
        """Note that the source has written down that it has given the guest up: nobody will ever ask again."""
        if token in self._logs:
            self._logs.pop(token).remove()

    def lost(self, token: str) -> None:
        """Note that the connection is gone, or that the source sent ABORT."""
        standing = self.standing(token)
        if standing is Standing.LOADING:
            # READY was never said, so COMMIT was never sent, and nobody will ask.
            self._standing[token] = Standing.REFUSED
            self._logs.pop(token).remove()
        elif standing is Standing.READY:
            self._refuse(token, "the connection was lost, or somebody asked, before COMMIT came")

    def query(self, token: str) -> Standing:
        """Answer QUERY; asking a destination that has not started makes it refuse for ever.

        Returns:
            STARTED, ENDED, REFUSED or UNKNOWN; STARTING means that the caller has to ask again when that is over.
        """
        if self.standing(token) is Standing.UNKNOWN:
            return self._journal.settle(token)
        self.lost(token)
        return self.standing(token)

    def _refuse(self, token: str, why: str) -> None:
        self._standing[token] = Standing.REFUSED
        log = self._logs.pop(token)
        try:
            log.write(Record.REFUSED, why=why)
        except OSError:
            self._take_back(log)
        log.close()

    def _take_back(self, log: Log) -> None:
        """Leave READY as the last record: that is a refusal as well, to whoever asks when this process is dead."""
        try:
            if Record.STARTED in log.records:
                log.take_back(Record.STARTED)
        except OSError:
            pass  # with such a disk, it is this process alone that knows, as long as it lives


def _not_written(record: Record, error: OSError) -> Refusal:
    return Refusal(Reason.LOG_FAILED, f"{record.name} cannot be written to the journal: {error.strerror}")
