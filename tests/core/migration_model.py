# SPDX-License-Identifier: MIT
"""The migration state machine again, from the uAPI's words alone: what may be asked, which way it goes, what it gives.

Written without looking at vfioemu/core/objects/migration.py: shortest ways are searched for in the graph of arcs that the comment
above enum vfio_device_mig_state in <linux/vfio.h> lists, under the conditions that it states.
"""

import itertools
from collections import deque
from typing import NamedTuple

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)
HAS_STOP_COPY, HAS_P2P, HAS_PRE_COPY = 1, 2, 4
SAVING = {STOP_COPY, PRE_COPY, PRE_COPY_P2P}
SAVING_FD, RESUMING_FD = "a readable fd", "a writable fd"

P2P_STATES = {RUNNING_P2P, PRE_COPY_P2P}
PRE_COPY_STATES = {PRE_COPY, PRE_COPY_P2P}


def states(flags):
    """The states that a device with these VFIO_MIGRATION flags has, but for ERROR."""
    return {
        state
        for state in range(1, 8)
        if (flags & HAS_P2P or state not in P2P_STATES)
        and (flags & HAS_PRE_COPY or state not in PRE_COPY_STATES)
    }


def arcs(flags):
    """The arcs that a driver with these flags implements, each way by itself."""
    found = {(STOP, STOP_COPY), (STOP_COPY, STOP), (STOP, RESUMING), (RESUMING, STOP)}
    between = (STOP, RUNNING_P2P, RUNNING) if flags & HAS_P2P else (STOP, RUNNING)
    for one, other in itertools.pairwise(between):
        found |= {(one, other), (other, one)}
    if flags & HAS_PRE_COPY:
        found |= {(RUNNING, PRE_COPY), (PRE_COPY, RUNNING)}
        last = PRE_COPY
        if flags & HAS_P2P:
            found |= {(PRE_COPY, PRE_COPY_P2P), (PRE_COPY_P2P, PRE_COPY)}
            found |= {(RUNNING_P2P, PRE_COPY_P2P), (PRE_COPY_P2P, RUNNING_P2P)}
            last = PRE_COPY_P2P
        found.add((last, STOP_COPY))
    return found


def path(flags, current, target):
    """The states on the way, or None for EINVAL.

    "The combination transitions ... arcs pick the shortest path; no saving-group state in the interior, unless all of it
    is in the group; no RESUMING in the interior; of two shortest ways the one through the group that is left."
    """
    if current == target:
        return []
    if current not in states(flags) or target not in states(flags):
        return None
    if current == STOP_COPY and target in PRE_COPY_STATES:
        return None  # "not a valid combination": the same fd could not go on
    best = None
    queue = deque([[current]])
    while queue:
        way = queue.popleft()
        if best is not None and len(way) > len(best):
            break
        if way[-1] == target:
            if best is None or _prefer(way, best):
                best = way
            continue
        for one, other in sorted(arcs(flags)):
            if one == way[-1] and other not in way and _interior_is_fine([*way, other], target):
                queue.append([*way, other])
    assert best is not None
    return best[1:]


def _interior_is_fine(way, target):
    interior = way[1:] if way[-1] != target else way[1:-1]
    group = {*way, target} <= SAVING
    return all(state != RESUMING and (state not in SAVING or group) for state in interior)


def _prefer(way, other):
    raise AssertionError(f"two ways of one length: {way}, {other}")


class Outcome(NamedTuple):
    """What a SET_STATE does: errno name or None, the state afterwards, the arcs that were tried, and the new fd."""

    error: str | None
    state: int
    tried: tuple
    new_fd: str | None


def opens(one, other):
    """What fd an arc gives."""
    if other == RESUMING:
        return RESUMING_FD
    return SAVING_FD if other in SAVING and one not in SAVING else None


def set_state(flags, current, target, failures):
    """SET_STATE where `failures` says of arcs (from, to) how they fail: (errno name, whether the state is lost)."""
    way = path(flags, current, target)
    if way is None:
        return Outcome("EINVAL", current, (), None)
    tried = []
    new_fd = None
    for state in way:
        tried.append((current, state))
        if (current, state) in failures:
            error, lost = failures[current, state]
            return Outcome(error, ERROR if lost else current, tuple(tried), None)
        new_fd = opens(current, state)
        current = state
    return Outcome(None, current, tuple(tried), new_fd)
