# SPDX-License-Identifier: MIT
"""Policies: what each of them is for, in virtual time; and that one file is all it takes to add one."""

import re
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.cli.migrate import command
from vfioemu.migration import actions as do
from vfioemu.migration import policies
from vfioemu.migration.actions import Outcome
from vfioemu.migration.engine import Engine
from vfioemu.migration.plan import Block, ContainerPlan, DevicePlan, Limits, Plan, Reason, Round
from vfioemu.migration.policies.policy import GiveUp, GoOn, Situation, StopGuest
from vfioemu.migration.policies.precopy_limits import PrecopyLimits
from vfioemu.migration.virtual import VirtualGuest, run

DOCS = Path(__file__).parents[2] / "docs"
LINK = 128 << 20
NPAGES = (1 << 30) // 4096
LIMITS = Limits(bandwidth=LINK, downtime=0.3)


def migrate(policy, rho, limits=LIMITS, interfere=lambda engine, action: None):
    """Migrate a guest of 1 GiB that writes `rho` times as fast as its link carries."""
    device = DevicePlan(name="d", migration=7, logging=True)
    container = ContainerPlan(name="c", devices=(device,), dirty_pages=True)
    plan = Plan(blocks=(Block(name="ram", npages=NPAGES),), containers=(container,))
    engine = Engine(plan, limits, policies.load(policy))
    guest = VirtualGuest(bandwidth=LINK, write_rate=rho * LINK / 4096, working_set=NPAGES)
    return run(engine, guest, lambda action: interfere(engine, action)), engine, guest


def throttles(guest):
    return [action.share for action in guest.history if isinstance(action, do.Throttle)]


# What all of them do.


def test_those_that_there_are_are_found():
    assert {"precopy-limits", "auto-converge"} <= set(policies.names())
    assert policies.load("precopy-limits") is PrecopyLimits


@pytest.mark.parametrize("name", ["policy", "", "no-such", "../plan", "precopy_limits"])
def test_what_is_none_is_refused(name):
    with pytest.raises(ValueError, match="no migration policy"):
        policies.load(name)


@pytest.mark.parametrize("name", policies.names())
def test_each_can_be_chosen_and_is_documented(name):
    shown = CliRunner().invoke(command, ["--help"], terminal_width=200)
    assert name in shown.output
    assert f"| `{name}` |" in (DOCS / "migration.md").read_text(encoding="utf-8")
    assert policies.load(name).__doc__


@pytest.mark.parametrize("name", policies.names())
def test_an_idle_guest_is_sent_once_and_never_slowed_down(name):
    finish, _, guest = migrate(name, 0)
    assert finish.outcome is Outcome.COMPLETED
    assert guest.sent == NPAGES * 4096
    assert throttles(guest) == []


rounds = st.builds(
    Round,
    number=st.integers(0, 40),
    pages=st.integers(0, NPAGES),
    dirtied=st.integers(0, NPAGES),
    began=st.just(0.0),
    device_bytes=st.integers(0, 1 << 40),
    ram_bytes=st.integers(0, 1 << 40),
)
positive = st.floats(0, 1e15)


@pytest.mark.parametrize("name", policies.names())
@given(data=st.data())
def test_each_has_an_answer_to_any_situation(name, data):
    limits = Limits(max_rounds=data.draw(st.integers(1, 30)), max_seconds=data.draw(positive))
    policy = policies.load(name)(limits)
    throttle = 0.0
    for _ in range(data.draw(st.integers(1, 50))):
        decision = policy.decide(
            Situation(
                rounds=data.draw(st.lists(rounds, min_size=2, max_size=3)),
                seconds=data.draw(positive),
                timeout=data.draw(positive),
                over=data.draw(st.booleans()),
                left=data.draw(st.integers(0, 1 << 60)),
                bandwidth=data.draw(positive),
                threshold=data.draw(positive),
                throttle=throttle,
            )
        )
        assert isinstance(decision, GoOn | StopGuest | GiveUp)
        throttle = decision.throttle if isinstance(decision, GoOn) else throttle


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_guest_cannot_be_slowed_down_to_a_stand(share):
    with pytest.raises(ValueError, match=r"is not in \[0, 1\)"):
        GoOn(share)


# auto-converge.


@pytest.mark.parametrize(("rho", "most"), [(1.2, 0.6), (2, 0.8), (5, 0.9)])
def test_a_guest_that_writes_faster_than_the_link_converges_if_it_is_slowed_down(rho, most):
    without, _, guest = migrate("precopy-limits", rho)
    assert (without.reason, throttles(guest)) == (Reason.NOT_CONVERGING, [])

    finish, engine, guest = migrate("auto-converge", rho)
    assert finish.outcome is Outcome.COMPLETED
    assert throttles(guest) == [round(0.2 + 0.1 * i, 1) for i in range(len(throttles(guest)))]
    assert throttles(guest)[-1] == engine.throttle == most
    assert engine.timeline.started - engine.timeline.paused <= LIMITS.downtime


def test_a_guest_that_writes_slowly_is_not_slowed_down():
    finish, _, guest = migrate("auto-converge", 0.4)
    assert finish.outcome is Outcome.COMPLETED
    assert throttles(guest) == []


def test_cpus_stand_still_for_99_percent_of_the_time_at_most():
    finish, _, guest = migrate(
        "auto-converge", 1e6, Limits(bandwidth=LINK, downtime=0.001, max_rounds=50, max_seconds=0)
    )
    assert finish.reason is Reason.NOT_CONVERGING
    assert throttles(guest)[-3:] == [0.9, 0.99, 0.0]


def test_a_guest_that_stays_runs_freely_again():
    def fail(_, action):
        return do.Failed(0.0, Reason.PEER_LOST) if isinstance(action, do.Prepare) else None

    finish, engine, guest = migrate("auto-converge", 2, interfere=fail)
    assert (finish.reason, finish.source_runs, guest.running) == (Reason.PEER_LOST, True, True)
    assert throttles(guest)[-1] == guest.throttle == engine.throttle == 0.0


def test_a_cancel_while_it_is_slowed_down_lets_it_run_freely():
    def cancel(engine, action):
        if isinstance(action, do.Throttle) and action.share:
            engine.cancel()

    finish, _, guest = migrate("auto-converge", 2, interfere=cancel)
    assert finish.outcome is Outcome.CANCELLED
    assert throttles(guest) == [0.2, 0.0]


# A new one.


def blocks():
    page = (DOCS / "howto" / "policy.md").read_text(encoding="utf-8")
    return [
        textwrap.dedent(block)
        for block in re.findall(r"^ *```python\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    ]


def test_one_file_is_all_it_takes(tmp_path, monkeypatch):
    """What docs/howto/policy.md writes down is found, and does what the page says."""
    policy, example = blocks()
    (tmp_path / "insist.py").write_text(policy, encoding="utf-8")
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    assert "insist" in policies.names()
    names = {}
    exec(example, names)
    assert names["finish"].outcome is Outcome.COMPLETED
    with_default, _, _ = migrate("precopy-limits", 2)
    assert with_default.outcome is Outcome.FAILED
    downtime = names["engine"].timeline.started - names["engine"].timeline.paused
    assert downtime > LIMITS.downtime
