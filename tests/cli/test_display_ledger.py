# SPDX-License-Identifier: MIT
"""What a user reads of the ledger of writes: late ones by name, early ones, and what was not compared."""

import pytest

from vfioemu.cli.display import TextDisplay
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome

LATE = events.LateWrite(
    moment="just before COMMIT",
    origin="dma0",
    write=5417,
    iova=0x1003E8064,
    block="high",
    page=1000,
    npages=1,
    after=0.0081,
)
PAGE_ONLY = events.LateWrite(
    moment="after STARTED", origin="a device", write=None, iova=0x5000, block="", page=0, npages=0, after=None
)
READ = events.LedgerRead(moment="after STARTED", late=0, resummed=0)
VERIFIED = events.Verified(pages=8, mismatched_pages=0, devices=[], lost_writes=0, seconds=0.1)
END = events.End(code=0, outcome=Outcome.COMPLETED)


def shown(capsys, *told):
    display = TextDisplay()
    for event in (*told, END):
        display.show(event)
    return capsys.readouterr().out.splitlines()


def test_late_write_is_a_line_and_is_counted(capsys):
    out = shown(capsys, LATE, events.LedgerRead(moment="just before COMMIT", late=1, resummed=1), READ)
    assert (
        " LATE dma0 write 5417 iova 0x1003e8064 (high page 1000), 8.1 ms after the CPUs were paused;"
        " found just before COMMIT" in out
    )
    assert out[-1] == " ledger: 1 late write"


def test_write_of_which_only_the_page_is_known_says_no_more(capsys):
    out = shown(capsys, PAGE_ONLY, events.LedgerRead(moment="after STARTED", late=3, resummed=3))
    assert " LATE a device iova 0x5000 (outside of RAM); found after STARTED" in out
    assert out[-1] == " ledger: 3 late writes"


def test_pages_that_nobody_accounts_for_are_told(capsys):
    audit = events.Audited(
        pages=2048, different=2, unexplained=1, seconds=0.1, first=["low page 7, iova 0x7000, holds no stamp"]
    )
    out = shown(capsys, READ, audit)
    assert " CHANGED low page 7, iova 0x7000, holds no stamp: nobody accounts for it" in out
    assert out[-1] == " ledger: 0 late writes, 2 of 2048 pages changed since they were summed"


@pytest.mark.parametrize("where", ["source", "destination"])
def test_what_was_not_compared_is_said_in_capitals(capsys, where):
    why = "the control socket is gone"
    if where == "source":
        out = shown(capsys, VERIFIED, events.LedgerRead(moment="m", late=0, resummed=0, not_compared=why))
        assert out[-1] == f" ledger: 0 late writes of CPUs, those of devices NOT COMPARED: {why}"
    else:
        there = events.Verified(
            pages=8, mismatched_pages=0, devices=[], lost_writes=0, seconds=0.1, ledger=why
        )
        out = shown(capsys, there, READ)
        assert f" writes at the destination before its start NOT COMPARED: {why}" in out


def test_early_writes_are_told(capsys):
    early = events.Verified(
        pages=8,
        mismatched_pages=0,
        devices=[],
        lost_writes=0,
        seconds=0.1,
        early=1,
        early_writes=["dma0 write 1"],
    )
    assert " EARLY dma0 write 1: written at the destination before its start" in shown(capsys, early, READ)


def test_without_a_verification_nothing_is_said(capsys):
    assert not any("ledger" in line for line in shown(capsys))
