# SPDX-License-Identifier: MIT
"""The destination's half of the hand-over, as a pure state machine; the source's half is in the engine.

    source                              destination
      |  everything, then PREPARE(token)   |
      |----------------------------------->|  loads and verifies all: READY
      |<-----------------------------------|
      |  COMMIT(token)                     |
      |----------------------------------->|  STARTING, then STARTED (or REFUSED, if a device does not start)
      |<-----------------------------------|

If the connection breaks before COMMIT arrives, the destination refuses the token for ever, because the source resumes.
If it breaks after the source sent COMMIT, the source asks QUERY(token) on a new connection: the answer is STARTED, or
the destination refuses for ever *by being asked*, and the source may resume. A token that this process never accepted
is answered UNKNOWN, which settles nothing: another process may have run the guest and ended.

Why like that. What must never happen is that both run the guest: its devices would write to two worlds. That neither runs it is bad,
and can be mended by hand. No protocol over a connection that may break can rule out both for certain (the two generals), so
the doubt is put where it does the least harm, and is as short as it can be: from the moment in which COMMIT was sent until the
source has any answer. In it the source does not resume, whatever it has waited for; it asks, and says "in doubt" (exit status 6) if nobody
answers. Silence is not an answer: a source that resumed on it is planted in the tests, and is found (tests/migration/test_handover.py).

What was thought of, and is not done: a lease that expires (needs clocks that agree, and a destination that is stopped by SIGSTOP would
wake up with the guest), and a third party that decides (one more who can die).
"""

from enum import StrEnum


class Standing(StrEnum):
    """What the destination makes of one token."""

    LOADING = "loading"
    READY = "ready"
    STARTING = "starting"
    STARTED = "started"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Handover:
    """All tokens that one destination process has ever accepted, and what became of each.

    The memory of a refusal may not be lost as long as the process lives; one entry per accepted migration is small.
    """

    def __init__(self) -> None:
        self._standing: dict[str, Standing] = {}

    def standing(self, token: str) -> Standing:
        """How things are."""
        return self._standing.get(token, Standing.UNKNOWN)

    def accept(self, token: str) -> bool:
        """Begin to load; False for a token that was seen before (a replayed stream must not be loaded twice)."""
        if token in self._standing:
            return False
        self._standing[token] = Standing.LOADING
        return True

    def prepared(self, token: str) -> bool:
        """Everything is here; False when the token was refused meanwhile."""
        return self._move(token, Standing.LOADING, Standing.READY)

    def commit(self, token: str) -> bool:
        """Whether the guest may be started now."""
        return self._move(token, Standing.READY, Standing.STARTING)

    def started(self, token: str) -> bool:
        """Note that the guest runs."""
        return self._move(token, Standing.STARTING, Standing.STARTED)

    def not_started(self, token: str) -> bool:
        """Note that the guest could not be started; nothing of it runs."""
        return self._move(token, Standing.STARTING, Standing.REFUSED)

    def lost(self, token: str) -> None:
        """Note that the connection is gone, or that the source sent ABORT."""
        if self.standing(token) in (Standing.LOADING, Standing.READY):
            self._standing[token] = Standing.REFUSED

    def query(self, token: str) -> Standing:
        """Answer QUERY; asking a destination that has not started makes it refuse for ever.

        Returns:
            STARTED, REFUSED or UNKNOWN; STARTING means that the caller has to ask again when that is over.
        """
        self.lost(token)
        return self.standing(token)

    def _move(self, token: str, before: Standing, after: Standing) -> bool:
        if self.standing(token) is not before:
            return False
        self._standing[token] = after
        return True
