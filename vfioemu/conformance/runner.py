# SPDX-License-Identifier: MIT
"""Run trace files, in process or through a daemon, in one process or several.

Each worker has its own machine (and its own daemon), and runs its share of the scenarios on it, one after the other.
"""

import multiprocessing
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vfioemu.conformance.inprocess import InProcessRunner
from vfioemu.conformance.machine import machine_for
from vfioemu.conformance.replay import Difference
from vfioemu.conformance.trace import Environment, Scenario, Traces
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.starting import become_a_worker, held_interrupts
from vfioemu.world import Refusal, RefusedError, refusal


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        memory: None to run in process; ``"ask"`` or ``"process_vm"`` to run through a daemon that reaches memory that way.
        machine: a machine file instead of that of the traces.
        profile: a kernel profile instead of that of the recorded kernel.
        jobs: number of worker processes.
    """

    memory: str | None = None
    machine: Path | None = None
    profile: str | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one scenario.

    Attributes:
        scenario: its id.
        differences: empty if it passed.
        crash: a traceback of ours, if there was one.
    """

    scenario: str
    differences: tuple[Difference, ...] = ()
    crash: str | None = None

    @property
    def passed(self) -> bool:
        """True if every answer was the kernel's."""
        return not self.differences and self.crash is None


class Runner(Protocol):
    """Something that runs scenarios on one machine."""

    def run(self, scenario: Scenario, environment: Environment) -> list[Difference]:
        """Replay one scenario."""


@dataclass(frozen=True, slots=True)
class Job:
    """One scenario, and the machine to run it on."""

    spec: MachineSpec
    environment: Environment
    scenario: Scenario


def plan(files: Iterable[Traces], options: Options) -> list[Job]:
    """Assign a machine to each scenario of each file.

    Raises:
        TraceError: the machine does not fit the traces.
        ConfigError: a machine file is wrong.
    """
    jobs = []
    for traces in files:
        specs: dict[str, MachineSpec] = {}
        for scenario in traces.scenarios:
            if scenario.family not in specs:
                specs[scenario.family] = machine_for(
                    scenario.family, traces.environment, path=options.machine, profile=options.profile
                )
            jobs.append(Job(specs[scenario.family], traces.environment, scenario))
    return jobs


def run(jobs: Sequence[Job], options: Options) -> Iterator[Outcome]:
    """Run all jobs; within the share of each worker, outcomes come in the order of the jobs.

    Raises:
        RefusedError: the system refuses a worker a resource.
    """
    workers = min(options.jobs, len(jobs))
    if workers <= 1:
        yield from _run_share(jobs, options)
        return
    context = multiprocessing.get_context("fork")
    shares = [(jobs[n::workers], options) for n in range(workers)]
    receivers = []
    for share in shares:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(*share, sender, os.getpid()), daemon=True)
        with held_interrupts():
            process.start()
        sender.close()
        receivers.append((receiver, process, len(share[0])))
    try:
        for receiver, process, count in receivers:
            done = 0
            while done < count:
                try:
                    outcome = receiver.recv()
                except EOFError:
                    break
                if isinstance(outcome, Refusal):
                    raise RefusedError(outcome)
                yield outcome
                done += 1
            process.join()
            for job in shares[receivers.index((receiver, process, count))][0][done:]:
                yield Outcome(job.scenario.id, crash="the worker process died")
    finally:
        for _, process, _ in receivers:
            process.kill()  # after an interrupt; their daemons end with them
            process.join()


def _work(
    jobs: Sequence[Job], options: Options, sender: "multiprocessing.connection.Connection", parent: int
) -> None:
    become_a_worker(parent)
    try:
        for outcome in _run_share(jobs, options):
            sender.send(outcome)
    except Exception as error:
        told = refusal(error)
        if told is None:
            raise
        sender.send(told)
    sender.close()


def _run_share(jobs: Sequence[Job], options: Options) -> Iterator[Outcome]:
    runners: dict[int, Runner] = {}
    with ExitStack() as stack:
        for job in jobs:
            runner = runners.get(id(job.spec))
            if runner is None:
                runner = runners[id(job.spec)] = _runner(job.spec, options, stack)
            yield _run_one(runner, job)


def _runner(spec: MachineSpec, options: Options, stack: ExitStack) -> Runner:
    if options.memory is None:
        return InProcessRunner(spec)
    from vfioemu.conformance.live import LiveRunner  # not imported to replay in process

    return stack.enter_context(LiveRunner(spec, options.memory))


def _run_one(runner: Runner, job: Job) -> Outcome:
    try:
        return Outcome(job.scenario.id, tuple(runner.run(job.scenario, job.environment)))
    except Exception as error:  # noqa: BLE001 - the boundary: a bug of ours fails its scenario, the others still run
        if (
            told := refusal(error)
        ) is not None:  # not a wrong answer of ours, and the other scenarios would meet the same
            raise RefusedError(told) from None
        return Outcome(job.scenario.id, crash=traceback.format_exc())
