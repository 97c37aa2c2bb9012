# SPDX-License-Identifier: MIT
"""A source in whose guest something happens at a moment at which nothing may happen."""

from vfioemu.migration import actions as do
from vfioemu.migration.source import Source

MOMENTS = ["before the final sync", "after the final sync", "after the sums", "after COMMIT"]
FOUND = [do.Moment.SYNCED, do.Moment.SYNCED, do.Moment.COMMIT, do.Moment.STARTED]
"""The reading that finds what happens at each."""


class Haunted(Source):
    """A source that calls `happen` once, at one of MOMENTS.

    Args:
        moment: when.
        happen: an async function of the guest.
    """

    def __init__(self, *args, moment, happen, **options):
        super().__init__(*args, **options)
        self.moment = moment
        self.happen = happen
        self.happened = 0

    async def _perform(self, action, nursery):
        at = action if isinstance(action, do.Sync) else type(action)
        if (self.moment, at) in ((MOMENTS[0], do.Sync(final=True)), (MOMENTS[2], do.Prepare)):
            await self._haunt()
        event = await super()._perform(action, nursery)
        if (self.moment, at) in ((MOMENTS[1], do.Sync(final=True)), (MOMENTS[3], do.Commit)):
            await self._haunt()
        return event

    async def _haunt(self):
        self.happened += 1
        await self.happen(self.guest)
