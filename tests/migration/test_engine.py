# SPDX-License-Identifier: MIT
"""The engine against a model of the world that fails, loses messages and is cancelled wherever Hypothesis likes."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Finish, Outcome, TargetKind
from vfioemu.migration.engine import Engine, Phase
from vfioemu.migration.handover import Handover, Standing
from vfioemu.migration.plan import Block, ContainerPlan, DevicePlan, Limits, OnMismatch, Plan, Reason, Tracker
from vfioemu.migration.policies.auto_converge import AutoConverge
from vfioemu.migration.policies.policy import GiveUp, GoOn, StopGuest
from vfioemu.migration.policies.precopy_limits import PrecopyLimits
from vfioemu.migration.records import Record
from vfioemu.migration.result import exit_code
from vfioemu.uapi import constants as u

FLAGS = u.VFIO_MIGRATION_STOP_COPY, u.VFIO_MIGRATION_P2P, u.VFIO_MIGRATION_PRE_COPY
PRECOPY = (u.VFIO_DEVICE_STATE_PRE_COPY, u.VFIO_DEVICE_STATE_PRE_COPY_P2P)
ACTIVE = (u.VFIO_DEVICE_STATE_RUNNING, u.VFIO_DEVICE_STATE_PRE_COPY)
"""States in which a device may begin DMA."""


def plan(containers=((7,),), *, logging=True, dirty_pages=True, npages=1000, verify=True):
    """A plan: for each container the migration flags of its devices."""
    built = []
    for c, flags in enumerate(containers):
        devices = tuple(
            DevicePlan(name=f"d{c}.{i}", migration=f, logging=logging) for i, f in enumerate(flags)
        )
        built.append(ContainerPlan(name=f"c{c}", devices=devices, dirty_pages=dirty_pages))
    return Plan(blocks=(Block(name="ram", npages=npages),), containers=tuple(built), verify=verify)


@dataclass
class World:
    """Source, destination and the network between them, as simple as can be, checking each action as it comes."""

    plan: Plan
    now: float = 0.0
    cpus: bool = True
    throttle: float = 0.0
    tracking: set = field(default_factory=set)
    unknown: set = field(default_factory=set)
    """Trackers that nobody knows of whether they were started."""
    states: dict = field(default_factory=dict)
    pages: int = 0
    undetected: bool = False
    """Something may have been written since the last sync."""
    final_synced: bool = False
    committed: bool = False
    source_may_run: bool = True
    destination: Handover = field(default_factory=Handover)
    noted: list = field(default_factory=list)
    log: list = field(default_factory=list)
    differs: int = 0
    """Pages and devices that a comparison finds different."""
    on_mismatch: OnMismatch = OnMismatch.ABORT
    read: list = field(default_factory=list)

    def __post_init__(self):
        self.states = {device.name: u.VFIO_DEVICE_STATE_RUNNING for device in self.plan.devices}
        self.destination.accept("t")

    @property
    def writers(self):
        return self.cpus or any(state in ACTIVE for state in self.states.values())

    def check(self, action):
        """Every action is legal where it comes."""
        self.log.append(action)
        if self.writers:
            self.undetected = True
        destination_runs = self.destination.standing("t") is Standing.STARTED
        match action:
            case do.BeginLedger():
                assert not self.tracking
            case do.ReadLedger(moment):
                self.read.append(moment)
                assert not self.writers
                assert self.final_synced
                assert self.committed == (moment is do.Moment.STARTED)
            case do.Audit():
                assert self.committed
                assert destination_runs
            case do.StartTracking(target):
                assert target not in self.tracking
            case do.StopTracking(target):
                assert target in self.tracking | self.unknown
                assert self.cpus, "the source runs before tracking is taken down"
            case do.Sync(final):
                assert self.tracking == set(expected_targets(self.plan))
                assert final == (not self.writers)
            case do.SendRam(_, final):
                assert not final or self.final_synced
                assert self.tracking, "a page was read before its tracker was on"
            case do.SendDevice(name, _, final):
                legal = (u.VFIO_DEVICE_STATE_STOP_COPY,) if final else PRECOPY
                assert self.states[name] in legal
            case do.ReadDevice(name):
                assert not self.writers
                assert do.SendDevice(name, 0, True) in self.log, "its state was not sent before"
                assert self.states[name] == u.VFIO_DEVICE_STATE_STOP_COPY
            case do.SendCpus() | do.SendSums():
                assert not self.writers
                assert self.pages == 0
            case do.Prepare():
                assert not self.differs or self.on_mismatch is OnMismatch.MOVE, "it is not the same guest"
                assert not self.writers
                assert self.pages == 0
                assert not self.undetected, "written after the final sync"
            case do.Note(Record.COMMIT):
                assert not self.noted
                self.noted.append(Record.COMMIT)
            case do.Commit():
                wanted = [do.Moment.SYNCED, do.Moment.COMMIT] if self.plan.verify else []
                assert self.read == wanted, "COMMIT without having looked for late writes"
                assert not self.committed
                assert self.noted, "COMMIT is said before it is written down"
                self.committed = True
            case do.Query():
                assert self.committed
            case do.SetState(_, state) if state in ACTIVE and self.committed:
                assert not destination_runs
            case do.ResumeCpus():
                assert not destination_runs
                assert not self.committed or self.destination.standing("t") is Standing.REFUSED

    def fail(self, action, reason):
        """The action fails, half done where it can be."""
        if isinstance(action, do.SetState):
            self.states[action.device] = u.VFIO_DEVICE_STATE_STOP
        return do.Failed(self.now, reason)

    def leave(self, action, late):
        """Nobody waits for the answer to the action, which has an effect all the same if it is `late`."""
        if isinstance(action, do.StartTracking):
            self.unknown.add(action.target)
        if late:
            self.perform(action)
        return do.Failed(self.now, Reason.DAEMON_SILENT, unknown=True)

    def perform(self, action, dirtied=0):
        """The action works."""
        self.now += 0.05
        match action:
            case do.FillBitmaps():
                self.pages = self.plan.npages
            case do.StartTracking(target):
                self.tracking.add(target)
            case do.StopTracking(target):
                self.tracking.discard(target)
            case do.PauseCpus():
                self.cpus = False
            case do.ResumeCpus():
                self.cpus = True
            case do.Throttle(share):
                self.throttle = share
            case do.SetState(name, state):
                assert legal_arc(self.states[name], state)
                self.states[name] = state
            case do.ResetDevice(name):
                self.states[name] = u.VFIO_DEVICE_STATE_RUNNING
            case do.AskState(name):
                return do.StateIs(self.now, self.states[name])
            case do.Sync(final):
                self.undetected = self.writers
                self.final_synced = final
                if not self.undetected and not final:
                    dirtied = 0
                self.pages = min(self.plan.npages, self.pages + dirtied)
                return do.Synced(self.now, self.pages, dirtied)
            case do.SendRam(limit):
                sent = min(self.pages, limit // 4096) if limit else self.pages
                self.pages -= sent
                return do.RamSent(self.now, sent * 4096, self.pages)
            case do.SendDevice():
                return do.DeviceSent(self.now, 100, 0)
            case do.ReadLedger() | do.Audit():
                return do.Checked(self.now)
            case do.ReadDevice(name):
                self.states[name] = u.VFIO_DEVICE_STATE_STOP
            case do.SendSums():
                return do.Checked(self.now, self.differs, Reason.MISMATCH, "differs")
            case do.Prepare():
                return self.prepare()
            case do.Commit():
                return self.commit()
            case do.Query():
                return self.query()
            case do.Abort():
                self.destination.lost("t")
            case do.Wait(seconds):
                self.now += seconds
        return do.Done(self.now)

    def prepare(self):
        if self.destination.prepared("t") is not None:
            return do.Failed(self.now, Reason.PEER_LOST)
        return do.Done(self.now)

    def commit(self):
        if take_over(self.destination, "t") is None:
            return do.Started(self.now)
        return do.Refused(self.now)

    def query(self):
        answer = self.destination.query("t")
        if answer is Standing.STARTED:
            return do.Started(self.now)
        return do.Refused(self.now) if answer is Standing.REFUSED else do.Failed(self.now, Reason.PEER_LOST)

    def check_end(self, finish):
        """Exactly one owner, and a source that runs is as it was."""
        destination_runs = self.destination.standing("t") is Standing.STARTED
        source_runs = self.cpus
        assert not (destination_runs and source_runs)
        if finish.outcome is Outcome.COMPLETED:
            assert destination_runs
            assert finish.mismatches == (self.differs if self.plan.verify else 0)
            assert not self.writers
        elif finish.outcome is Outcome.IN_DOUBT:
            assert self.committed
            assert not self.writers, "in doubt, and the source runs"
        else:
            assert source_runs
            assert bool(finish.why_lost) != finish.source_runs
            assert not self.throttle, "it runs slowly for ever"
            assert not destination_runs
            assert finish.outcome is not Outcome.MISMATCH or self.differs
            if finish.source_runs:
                assert all(state == u.VFIO_DEVICE_STATE_RUNNING for state in self.states.values())
                assert {action.device for action in self.log if isinstance(action, do.AskState)} == set(
                    self.states if finish.outcome is not Outcome.BLOCKED else ()
                ), "nobody asked a device whether it runs"


def take_over(handover, token, failure=None):
    """COMMIT has come: start the guest, or fail to; what the hand-over makes of it."""
    steps = handover.take_over(token)
    try:
        next(steps)
        steps.send(failure)
    except StopIteration as end:
        return end.value
    raise AssertionError("it asks for more than one start")


def legal_arc(current, target):
    """migration_v2.md 3.3: the only cells that are refused between supported states."""
    return not (current == u.VFIO_DEVICE_STATE_STOP_COPY and target in PRECOPY)


def expected_targets(plan):
    yield do.Target(TargetKind.CPU, "cpus")
    for container in plan.containers:
        if container.tracker is Tracker.DEVICE:
            for device in container.devices:
                yield do.Target(TargetKind.DEVICE, device.name)
        elif container.tracker is Tracker.CONTAINER:
            yield do.Target(TargetKind.CONTAINER, container.name)


def drive(engine, world, decide=lambda action: None, dirtied=lambda: 0, limit=2000):
    """Run to the end; `decide(action)` may return an event instead of performing the action."""
    action = engine.start(world.now)
    for _ in range(limit):
        if isinstance(action, Finish):
            world.log.append(action)
            world.check_end(action)
            return action
        world.check(action)
        event = decide(action)
        action = engine.step(event if event is not None else world.perform(action, dirtied()))
    raise AssertionError("the engine does not come to an end")


device_flags = st.sampled_from([1, 3, 5, 7])
p2p_flags = st.sampled_from([3, 7])


@st.composite
def plans(draw):
    one = draw(st.booleans())
    containers = (
        ((draw(device_flags),),)
        if one
        else tuple(
            tuple(draw(st.lists(p2p_flags, min_size=1, max_size=3))) for _ in range(draw(st.integers(1, 3)))
        )
    )
    return plan(
        containers, logging=draw(st.booleans()), dirty_pages=draw(st.booleans()), verify=draw(st.booleans())
    )


CAN_FAIL = (
    do.Connect,
    do.StartTracking,
    do.StopTracking,
    do.Sync,
    do.SendRam,
    do.SetState,
    do.AskState,
    do.WatchCpus,
    do.ResetDevice,
    do.SendDevice,
    do.Wait,
    do.SendCpus,
    do.ReadDevice,
    do.SendSums,
    do.Prepare,
    do.Abort,
)


CALLS = (do.StartTracking, do.StopTracking, do.SetState, do.AskState, do.ResetDevice)
"""What a daemon may not answer in time."""


class Fickle:
    """A policy that may decide anything, ten times."""

    def __init__(self, data):
        self.data = data
        self.left = 10

    def decide(self, situation):
        assert len(situation.rounds) >= 2
        self.left -= 1
        if not self.left:
            return StopGuest()
        decisions = st.builds(GoOn, st.sampled_from([0.0, 0.2, 0.99])) | st.sampled_from(
            [StopGuest(), GiveUp(Reason.NOT_CONVERGING, "")]
        )
        return self.data.draw(decisions, label="decision")


@settings(max_examples=300, deadline=None)
@given(plan=plans(), data=st.data())
def test_any_failure_and_any_cancel_leaves_exactly_one_owner(plan, data):
    differs = data.draw(st.sampled_from([0, 0, 1, 7]), label="differs") if plan.verify else 0
    world = World(plan, differs=differs, on_mismatch=data.draw(st.sampled_from(OnMismatch)))
    limits = Limits(
        bandwidth=data.draw(st.sampled_from([0, 2_000_000])),
        max_rounds=5,
        slice_bytes=1 << 20,
        on_mismatch=world.on_mismatch,
    )
    policies = [PrecopyLimits, AutoConverge, lambda _: Fickle(data)]
    engine = Engine(plan, limits, data.draw(st.sampled_from(policies), label="policy"))

    def decide(action):
        fate = data.draw(
            st.sampled_from(["works"] * 12 + ["fails", "cancelled", "lost", "late", "never"]),
            label=type(action).__name__,
        )
        if fate == "cancelled":
            accepted = engine.cancel()
            assert accepted == (not world.committed)
        if isinstance(action, do.Commit | do.Query | do.Prepare) and fate == "lost":
            if data.draw(st.booleans(), label="request arrives"):
                world.perform(action)  # and its answer does not
            world.destination.lost("t") if data.draw(st.booleans(), label="peer notices") else None
            return do.Failed(world.now, Reason.PEER_LOST)
        if fate == "fails" and isinstance(action, CAN_FAIL):
            return world.fail(action, Reason.PEER_LOST)
        if fate in ("late", "never") and isinstance(action, CALLS):
            return world.leave(action, fate == "late")
        return None

    drive(engine, world, decide, lambda: data.draw(st.integers(0, 600), label="dirtied"))
    assert engine.phase is Phase.ENDED


def test_success_never_stops_tracking_and_never_resumes():
    world = World(plan(((7, 3), (7,))))
    finish = drive(Engine(world.plan, Limits()), world)
    assert finish.outcome is Outcome.COMPLETED
    kinds = [type(action) for action in world.log]
    assert do.StopTracking not in kinds
    assert do.ResumeCpus not in kinds
    assert kinds[-4:] == [do.Release, do.ReadLedger, do.Audit, Finish]


def test_stop_order_is_cpus_then_p2p_then_stop_copy_then_final_sync():
    world = World(plan(((7, 3),)))
    drive(Engine(world.plan, Limits()), world)
    begin = next(i for i, action in enumerate(world.log) if isinstance(action, do.PauseCpus))
    assert world.log[begin : begin + 6] == [
        do.PauseCpus(),
        do.SetState("d0.1", u.VFIO_DEVICE_STATE_RUNNING_P2P),
        do.SetState("d0.0", u.VFIO_DEVICE_STATE_PRE_COPY_P2P),
        do.SetState("d0.1", u.VFIO_DEVICE_STATE_STOP_COPY),
        do.SetState("d0.0", u.VFIO_DEVICE_STATE_STOP_COPY),
        do.Sync(final=True),
    ]


def test_start_failure_on_second_container_stops_first_and_never_starts_third():
    """A dead tracker may not go unnoticed, and the living ones may not be left behind."""
    world = World(plan(((7,), (7,), (7,)), logging=False))
    second = do.StartTracking(do.Target(TargetKind.CONTAINER, "c1"))

    def decide(action):
        if action == second:
            return do.Failed(world.now, Reason.TRACKING_START_FAILED, "START", 5)
        return None

    finish = drive(Engine(world.plan, Limits()), world, decide)
    assert (finish.outcome, finish.reason, finish.errno) == (Outcome.FAILED, Reason.TRACKING_START_FAILED, 5)
    assert do.StartTracking(do.Target(TargetKind.CONTAINER, "c2")) not in world.log
    stopped = [action.target for action in world.log if isinstance(action, do.StopTracking)]
    assert stopped == [do.Target(TargetKind.CONTAINER, "c0"), do.Target(TargetKind.CPU, "cpus")]
    assert not any(isinstance(action, do.SendRam) for action in world.log)


@pytest.mark.parametrize("on_mismatch", OnMismatch)
def test_guest_that_is_not_the_same_is_committed_only_if_the_user_wants_that(on_mismatch):
    world = World(plan(), differs=3, on_mismatch=on_mismatch)
    finish = drive(Engine(world.plan, Limits(on_mismatch=on_mismatch)), world)
    moved = on_mismatch is OnMismatch.MOVE
    assert finish.outcome is (Outcome.COMPLETED if moved else Outcome.MISMATCH)
    assert (finish.mismatches, finish.reason, finish.detail) == (3, Reason.MISMATCH, "differs")
    assert finish.source_runs is not moved
    assert any(isinstance(action, do.Commit) for action in world.log) is moved
    assert do.Abort(Reason.MISMATCH, "differs") in world.log or moved


def test_failing_final_sync_resumes_the_source():
    world = World(plan())
    finish = drive(
        Engine(world.plan, Limits()),
        world,
        lambda action: (
            do.Failed(world.now, Reason.TRACKING_SYNC_FAILED) if action == do.Sync(final=True) else None
        ),
    )
    assert finish.outcome is Outcome.FAILED
    assert finish.source_runs
    assert not any(isinstance(action, do.Commit) for action in world.log)


def test_device_that_cannot_resume_is_reset():
    world = World(plan())
    stuck = do.SetState("d0.0", u.VFIO_DEVICE_STATE_RUNNING)

    def decide(action):
        if action == stuck or isinstance(action, do.Prepare):
            return do.Failed(world.now, Reason.DEVICE_ERROR)
        return None

    finish = drive(Engine(world.plan, Limits()), world, decide)
    assert do.ResetDevice("d0.0") in world.log
    assert finish.source_runs


@pytest.mark.parametrize("which", ["d0.0", "d1.0"])
def test_source_runs_only_if_each_device_says_so_also_one_that_nothing_was_done_to(which):
    """A daemon that dies before a device is touched takes the guest with it."""
    world = World(plan(((7,), (7,))))

    def decide(action):
        if isinstance(action, do.StartTracking):
            return do.Failed(world.now, Reason.TRACKING_START_FAILED, "START", 5)
        if action == do.AskState(which):
            return do.Failed(world.now, Reason.DEVICE_ERROR, "the daemon closed the connection", 5)
        return None

    finish = drive(Engine(world.plan, Limits()), world, decide)
    assert (finish.reason, finish.source_runs) == (Reason.TRACKING_START_FAILED, False)
    assert finish.lost_devices == (which,)
    assert finish.why_lost == f"{which}: the daemon closed the connection"
    assert exit_code(finish) == 1


def test_device_that_answers_with_another_state_does_not_run():
    world = World(plan())

    def decide(action):
        if isinstance(action, do.AskState):
            return do.StateIs(world.now, u.VFIO_DEVICE_STATE_ERROR)
        return do.Failed(world.now, Reason.PEER_LOST) if isinstance(action, do.Prepare) else None

    finish = drive(Engine(world.plan, Limits()), world, decide)
    assert (finish.source_runs, finish.why_lost) == (False, "d0.0: it is in ERROR")


def test_cpus_that_do_not_move_do_not_run():
    world = World(plan())

    def decide(action):
        if isinstance(action, do.WatchCpus):
            return do.Failed(world.now, Reason.DEVICE_ERROR, "the CPUs do not move")
        return do.Failed(world.now, Reason.PEER_LOST) if isinstance(action, do.Prepare) else None

    finish = drive(Engine(world.plan, Limits()), world, decide)
    assert (finish.source_runs, finish.why_lost, exit_code(finish)) == (False, "the CPUs do not move", 1)


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        (((0,),), Reason.NO_MIGRATION_SUPPORT),
        (((7, 5),), Reason.P2P_MIXED),
        (((7,), (1,)), Reason.P2P_MIXED),
    ],
)
def test_blockers_end_before_any_action(containers, reason):
    engine = Engine(plan(containers), Limits())
    finish = engine.start(0.0)
    assert isinstance(finish, Finish)
    assert finish.outcome is Outcome.BLOCKED
    assert finish.reason is reason
    assert finish.source_runs


@pytest.mark.parametrize("a", [True, False])
@pytest.mark.parametrize("b", [True, False])
@pytest.mark.parametrize("cap", [True, False])
def test_tracker_truth_table(a, b, cap):
    """QEMU: vfio_get_dirty_bitmap()."""
    devices = (DevicePlan(name="a", migration=7, logging=a), DevicePlan(name="b", migration=7, logging=b))
    tracker = ContainerPlan(name="c", devices=devices, dirty_pages=cap).tracker
    assert ContainerPlan(name="c", devices=(), dirty_pages=cap).tracker is Tracker.NONE
    assert tracker is (Tracker.DEVICE if a and b else Tracker.CONTAINER if cap else Tracker.ALL_DIRTY)


def test_second_migration_after_cancel_begins_from_all_ones():
    first = World(plan())
    engine = Engine(first.plan, Limits())

    def decide(action):
        if isinstance(action, do.SendRam):
            engine.cancel()

    assert drive(engine, first, decide).outcome is Outcome.CANCELLED
    second = World(plan(), now=first.now)
    assert drive(Engine(second.plan, Limits()), second).outcome is Outcome.COMPLETED
    fill = second.log.index(do.FillBitmaps())
    assert all(not isinstance(action, do.SendRam) for action in second.log[:fill])
