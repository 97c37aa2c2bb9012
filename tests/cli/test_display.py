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
