# SPDX-License-Identifier: MIT
"""`vfioemu fuzz`: arbitrary bytes to every ioctl."""

import os
import random

import click

from vfioemu.cli.errors import FAILED
from vfioemu.testing.fuzz.campaign import Summary, campaign, run_one


@click.command(name="fuzz")
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long.")
@click.option("--seconds", type=float, help="How long, instead of --minutes.")
@click.option("--seed", type=int, help="Make the one run of this seed, which has failed before.")
@click.option("--from-seed", type=int, help="Begin with this seed; by default with a random one.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=os.cpu_count(), help="Worker processes.")
@click.option("--calls", is_flag=True, help="List which call was answered with what, and how often.")
def command(
    minutes: float, seconds: float | None, seed: int | None, from_seed: int | None, jobs: int, calls: bool
) -> int:
    """Feed arbitrary bytes to every ioctl on every kind of fd, in process.

    Each answer's errno, and all that can be seen from outside, is held against a plain model of VFIO; a client that
    does everything right must be served as if nothing had happened. Exit status 1 if anything is wrong; the seeds that
    show it are printed.
    """
    total = Summary()
    if seed is not None:
        found = iter([run_one(seed)])
    else:
        first = random.SystemRandom().getrandbits(32) if from_seed is None else from_seed
        found = campaign(first, minutes * 60 if seconds is None else seconds, jobs)
    for summary in found:
        total.add(summary)
        for failure in summary.failures:
            print(f"seed {failure.seed}: {failure.why.rstrip()}\n  again: vfioemu fuzz --seed {failure.seed}")
    if calls:
        for (name, answer), count in sorted(total.calls.items()):
            print(f"{count:8} {name}: {answer}")
    print(f"{total.runs - len(total.failures)} runs passed, {len(total.failures)} failed")
    return FAILED if total.failures else 0
