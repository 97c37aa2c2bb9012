# SPDX-License-Identifier: MIT
"""Migrations that go wrong in every phase, with the shipped drivers in virtual time; and mistakes that the matrix must find."""

from functools import partial

import pytest

from tests.migration.planted_handovers import ImpatientEngine, PoliteHandover
from tests.sample import sampled
from vfioemu.migration import destination, source
from vfioemu.migration.chaos import cell, table
from vfioemu.migration.chaos.cell import Blow
from vfioemu.migration.chaos.faults import Fault, Phase
from vfioemu.migration.chaos.matrix import draw, run_blows, run_matrix, run_seed, shrink
from vfioemu.migration.chaos.pump import Harm, Pump
from vfioemu.migration.loader import Loader
from vfioemu.migration.result import Patience


def wrong(cells):
    return [str(one) for one in cells if not one.right]


@pytest.mark.full
@pytest.mark.parametrize("fault", Fault)
def test_each_fault_in_each_phase_ends_as_expected(fault):
    assert wrong(run_matrix([fault])) == []


@pytest.mark.parametrize("phase", sampled([Phase.COMMIT, Phase.STARTED, Phase.FINAL_SYNC, Phase.BULK], 2))
def test_a_phase_ends_as_expected_whatever_goes_wrong_in_it(phase):
    assert wrong(run_matrix(phases=[phase])) == []


@pytest.mark.parametrize("seed", sampled(range(200), 8))
def test_several_faults_at_once_break_no_rule(seed):
    found = run_seed(seed)
    assert found.right, str(found)


def test_control_of_the_harness_who_is_stopped_twice_goes_on():
    """It did not: the second stop forgot who waited for the end of the first."""
    found = run_blows([Blow(Phase.STOPPING, Fault.STOP_DAEMON_B), Blow(Phase.CPUS, Fault.STOP_DAEMON_B)])
    assert found.right, str(found)
    assert str(found.ending) == "D0"


def test_a_seed_is_always_the_same():
    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(50)}) > 40


def test_table_has_a_cell_for_each_fault_and_phase():
    assert set(table.EXPECTED) == {(phase, fault) for phase in Phase for fault in Fault}
    assert set(table.EXPECTED.values()) == {"S1", "S3", "S5", "D0", "D6", "D-", "N0", "N1", "N6", "N-"}


def test_control_table_without_a_row_or_a_cell_is_refused():
    rows = table._ROWS.strip().splitlines()
    with pytest.raises(ValueError, match="nothing is expected of connect: link passes small pieces"):
        table._read("\n".join(rows[:-1]))
    with pytest.raises(ValueError, match="zip"):
        table._read("\n".join([*rows[:-1], rows[-1].rpartition("|")[0]]))


def test_control_a_source_that_resumes_on_silence_is_found(monkeypatch):
    monkeypatch.setattr(source, "Engine", ImpatientEngine)
    [found] = run_matrix([Fault.BLACK_HOLE], [Phase.STARTED])
    assert not found.right
    assert "both sides run the guest" in found.ending.wrong


def test_control_a_refusal_that_does_not_bind_is_found(monkeypatch):
    """The source asks while COMMIT is on its way: it is told REFUSED, and resumes, and then COMMIT arrives."""
    monkeypatch.setattr(cell, "Source", partial(source.Source, patience=Patience(commit=1.0)))
    monkeypatch.setitem(Pump.DELAY, Harm.LATE, 5.0)  # later than that, and before the destination gives up
    [found] = run_matrix([Fault.LATE], [Phase.COMMIT])
    assert found.right, str(found)
    monkeypatch.setattr(destination, "Handover", PoliteHandover)
    [found] = run_matrix([Fault.LATE], [Phase.COMMIT])
    assert not found.right
    assert "both sides run the guest" in found.ending.wrong


def test_control_a_bug_that_ends_a_side_is_found(monkeypatch):
    async def buggy(self):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Loader, "finish", buggy)
    [found] = run_matrix([Fault.STOP_SOURCE], [Phase.HELLO])
    assert not found.right
    assert any("a bug of ours" in what for what in found.ending.wrong)


def test_shrinking_keeps_the_fault_that_matters():
    blows = (
        Blow(Phase.BULK, Fault.PIECES),
        Blow(Phase.COMMIT, Fault.STALL),
        Blow(Phase.FINAL_SYNC, Fault.RESET),
    )
    assert str(run_blows(blows).ending) == "S3"
    assert shrink(blows, lambda some: str(run_blows(some).ending) == "S3") == blows[2:]
