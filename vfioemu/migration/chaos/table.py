# SPDX-License-Identifier: MIT
"""What has to come of each fault in each phase: who runs the guest in the end, and the exit code of the source.

    S  the source runs it      D  the destination runs it      N  nobody does
    -  the source was killed, and has no exit code

The columns are the phases in their order. Before COMMIT is out, all that goes wrong leaves the guest at the source, but for the death of its
client, whose memory it was, and of its daemon, whose devices it had (exit 1: its CPUs run on without them). A daemon
that dies after the last of its calls does no harm. After STARTED it is at the
destination. Between the two the source asks: it resumes when it is told REFUSED, and is in doubt (6) when nobody
answers. A guest that died at the destination after the hand-over is nobody's (N0), and one that died in it is lost (N1).
"""

from collections.abc import Mapping
from typing import Final

from vfioemu.migration.chaos.faults import Fault, Phase

_ROWS: Final = """
connect, hello, setup, first sync | bulk, iterate, switch-over, stopping, final sync, final send | device state, CPU state, compare | READY | COMMIT | STARTED | clean-up
source KILL                     | N-  N-  N-  N- | N-  N-  N-  N-  N-  N- | N-  N-  N- | N- | N- | D- | D-
source STOP 1 s                 | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
destination KILL                | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | N6 | N6 | N0
destination KILL, started again | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | N1 | N0
destination STOP 1 s            | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
destination STOP 90 s           | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | N6 | D6 | D0
daemon a KILL                   | S1  S1  S1  S1 | S1  S1  S1  S1  S1  S1 | S1  S1  D0 | D0 | D0 | D0 | D0
daemon a STOP 1 s               | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
daemon b KILL                   | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
daemon b STOP 1 s               | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
next call to daemon a: EIO      | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  D0 | D0 | D0 | D0 | D0
next call to daemon a: ENOMEM   | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  D0 | D0 | D0 | D0 | D0
next call to daemon b: EIO      | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
next call to daemon b: ENOMEM   | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
journal a ENOSPC                | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | D0 | D0 | D0
journal b ENOSPC                | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link reset                      | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link half-close                 | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link stalls 2 s                 | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
link stalls 15 s                | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link black hole                 | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | N6 | D6 | D0
link corrupts a frame           | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link corrupts pages             | S3  S3  S3  S3 | S5  D0  S5  S5  S5  S5 | S3  D0  D0 | D0 | D0 | D0 | D0
link truncates a frame          | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link duplicates a frame         | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | D0 | D0 | D0 | D0
link swaps two frames           | S3  S3  S3  S3 | S3  S3  S3  S3  S3  S3 | S3  S3  S3 | S3 | S3 | D0 | D0
link passes small pieces        | D0  D0  D0  D0 | D0  D0  D0  D0  D0  D0 | D0  D0  D0 | D0 | D0 | D0 | D0
"""


def _read(text: str) -> Mapping[tuple[Phase, Fault], str]:
    """Read the table; ValueError if a cell is missing, or one too many is there."""
    head, *rows = text.strip().splitlines()
    phases = [Phase(name.strip()) for part in head.split("|") for name in part.split(",")]
    if phases != list(Phase):
        raise ValueError("the columns are not the phases in their order")
    table = {}
    for row in rows:
        name, *parts = row.split("|")
        cells = [cell for part in parts for cell in part.split()]
        table.update({(phase, Fault(name.strip())): cell for phase, cell in zip(phases, cells, strict=True)})
    missing = [f"{phase}: {fault}" for fault in Fault for phase in Phase if (phase, fault) not in table]
    if missing:
        raise ValueError(f"nothing is expected of {', '.join(missing)}")
    return table


EXPECTED: Final = _read(_ROWS)
"""Phase and fault -> what has to come of it."""
