# SPDX-License-Identifier: MIT
"""What people read of a comparison of devices."""

import pytest

from vfioemu.cli.display import TextDisplay
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.messages import Likeness
from vfioemu.migration.plan import Reason

SAME, DIFFERS, BLIND = Likeness.SAME, Likeness.DIFFERS, Likeness.NOT_COMPARED


def device(name, result, detail="", **parts):
    told = [events.ComparedPart(what=what, result=likeness) for what, likeness in parts.items()]
    return events.ComparedDevice(device=name, result=result, detail=detail, parts=told)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_each_device_is_told_of_that_is_not_proven(side, capsys):
    devices = [
        device("dma0", SAME, state=SAME),
        device("tty", SAME, state=SAME, registers=BLIND),
        device("lossy", DIFFERS, "state: 3 bytes, and 4 at the source", state=DIFFERS),
        device("odd", BLIND, "state: at the source: it is not the same", state=BLIND, registers=SAME),
    ]
    display = TextDisplay()
    display.show(
        events.Verified(side=side, pages=10, mismatched_pages=0, devices=devices, lost_writes=0, seconds=0.1)
    )
    display.show(
        events.End(side=side, code=5, outcome=Outcome.MISMATCH, reason=Reason.MISMATCH, source_runs=True)
    )
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert " DIFFERENT lossy: state: 3 bytes, and 4 at the source" in lines
    assert " NOT COMPARED odd: state: at the source: it is not the same" in lines
    assert " verified 10/10 pages, 2/4 devices, 0 lost DMA writes" in lines
    assert err == " tty is the same; not compared: registers\n"
    assert ("the source runs the guest" in out) == (side == "source")


def test_nothing_is_said_of_what_nobody_has_looked_at(capsys):
    display = TextDisplay()
    moved = events.End(side="source", code=0, outcome=Outcome.COMPLETED, reason=None, source_runs=False)
    display.show(moved)
    assert "nothing was verified but the sums of what was sent (--no-verify)" in capsys.readouterr().out

    display = TextDisplay()
    display.show(
        events.Verified(side="source", pages=10, mismatched_pages=0, devices=[], lost_writes=0, seconds=0.1)
    )
    display.show(moved)
    out = capsys.readouterr().out
    assert " verified 10/10 pages, 0/0 devices\n" in out
    assert "DMA" not in out
    assert "--no-verify" not in out
