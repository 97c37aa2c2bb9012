# SPDX-License-Identifier: MIT
"""Many runs, for some time, in several processes: what failed, and with which seed."""

import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import cast

from tests.fuzzing.run import Run
from vfioemu.starting import become_a_worker, held_interrupts
from vfioemu.world import Refusal, RefusedError, refusal


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed.

    Attributes:
        seed: makes it fail again.
        why: the assertion's text, or a traceback.
    """

    seed: int
    why: str


@dataclass(slots=True)
class Summary:
    """What a campaign did.

    Attributes:
        runs: how many.
        failures: those that failed.
        calls: how often which call was answered with what.
    """

    runs: int = 0
    failures: list[Failure] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "Summary") -> None:
        """Take another campaign's results in."""
        self.runs += other.runs
        self.failures += other.failures
        self.calls += other.calls


def run_one(seed: int) -> Summary:
    """Make the run of one seed."""
    summary = Summary(runs=1)
    try:
        Run(seed, summary.calls).play()
    except AssertionError as error:
        summary.failures.append(Failure(seed, f"{error}\n{_place(error)}"))
    except Exception as error:  # noqa: BLE001 - a crash of the core is a finding; the other seeds are still to be run
        if (told := refusal(error)) is not None:
            raise RefusedError(told) from None
        summary.failures.append(Failure(seed, traceback.format_exc()))
    return summary


def campaign(first_seed: int, seconds: float, jobs: int = 1) -> Iterator[Summary]:
    """Run seeds from `first_seed` on until the time is over; yields what each run found.

    Raises:
        RefusedError: the system refuses what a run needs.
    """
    end = time.monotonic() + seconds
    if jobs == 1:
        yield from _share(first_seed, 1, end)
        return
    context = multiprocessing.get_context("fork")
    receivers: list[Connection] = []
    processes = []
    for number in range(jobs):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(first_seed + number, jobs, end, sender, os.getpid()), daemon=True
        )
        with held_interrupts():
            process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    try:
        while receivers:
            for ready in wait(receivers):
                receiver = cast("Connection", ready)
                try:
                    found = receiver.recv()
                except EOFError:
                    receivers.remove(receiver)
                    continue
                if isinstance(found, Refusal):
                    raise RefusedError(found)
                yield found
        for number, process in enumerate(processes):
            process.join()
            if process.exitcode:
                why = f"the worker that began with this seed has died: exit code {process.exitcode}"
                yield Summary(failures=[Failure(first_seed + number, why)])
    finally:
        for process in processes:
            process.kill()  # if we were interrupted
            process.join()


def _share(first_seed: int, step: int, end: float) -> Iterator[Summary]:
    seed = first_seed
    while True:
        yield run_one(seed)
        seed += step
        if time.monotonic() >= end:
            return


def _work(first_seed: int, step: int, end: float, sender: Connection, parent: int) -> None:
    become_a_worker(parent)
    try:
        for summary in _share(first_seed, step, end):
            sender.send(summary)
    except RefusedError as error:
        sender.send(error.refusal)
    sender.close()


def _place(error: BaseException) -> str:
    """Where an assertion failed, without the frames of this module."""
    return "".join(traceback.format_tb(error.__traceback__)[1:])
