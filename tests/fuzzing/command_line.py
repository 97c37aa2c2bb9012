# SPDX-License-Identifier: MIT
"""The command line of the fuzzers: which engines run, for how long, and what is printed."""

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from tests.fuzzing.campaign import run_one
from tests.fuzzing.engines import NAME, NAMES, Finding, Plan, Report, replay
from vfioemu.cli.errors import FAILED, MISSING, CommandError

ROOT: Final = Path(__file__).parents[2]
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long.")
@click.option("--seconds", type=float, help="How long, instead of --minutes.")
@click.option(
    "--engine", "engines", type=click.Choice(NAMES), multiple=True, help="Only this one; all by default."
)
@click.option("--seed", type=int, help="Make the one walk of this seed, which has failed before.")
@click.option("--from-seed", type=int, help="Begin with this seed; by default with a random one.")
@click.option(
    "--input",
    "saved",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run a saved input.",
)
@click.option("--keep", type=_FOLDER, help="Copy inputs that fail here, for the tests to replay.")
@click.option(
    "--work", type=_FOLDER, default=Path("build/fuzz"), show_default=True, help="Corpora and findings."
)
@click.option(
    "--golden",
    type=_FOLDER,
    default=ROOT / "protocol/golden/linux-6.12",
    help="Golden traces for the corpus to begin with; by default those of Linux 6.12.",
)
@click.option(
    "--targets", type=_FOLDER, default=Path("build/fuzz/kernel/csrc"), help="Where the C fuzz targets are."
)
@click.option("-j", "--jobs", type=click.IntRange(1), default=os.cpu_count(), help="Worker processes.")
@click.option("--calls", is_flag=True, help="List which call was answered with what, and how often.")
def command(
    minutes: float,
    seconds: float | None,
    engines: tuple[str, ...],
    seed: int | None,
    from_seed: int | None,
    saved: Path | None,
    keep: Path | None,
    work: Path,
    golden: Path,
    targets: Path,
    jobs: int,
    calls: bool,
) -> int:
    """Feed arbitrary bytes to every ioctl on every kind of fd, in process, and to the C kernel.

    Each answer's errno, and all that can be seen from outside, is held against a plain model of VFIO; a client that
    does everything right must be served as if nothing had happened. Exit status 1 if anything is wrong; what shows it
    again is printed. The engines are explained in docs/testing.md.
    """
    if seed is not None:
        return _show([_of_seed(seed)], None, calls)
    if saved is not None:
        try:
            report = replay(saved, targets)
        except FileNotFoundError as error:
            raise CommandError(str(error), exit_code=MISSING) from None
        return _show([report], keep, calls)
    plan = Plan(
        seconds=minutes * 60 if seconds is None else seconds,
        jobs=jobs,
        seed=random.SystemRandom().getrandbits(24) if from_seed is None else from_seed,
        work=work,
        golden=golden,
        targets=targets,
    )
    chosen = engines or NAMES
    for name in engines:
        if why := plan.missing(name):
            raise CommandError(f"the engine {name} cannot run: {why}", exit_code=MISSING)
    return _show(plan.run(chosen), keep, calls)


def _of_seed(seed: int) -> Report:
    summary = run_one(seed)
    report = Report("walk", runs=summary.runs, calls=summary)
    for failure in summary.failures:
        report.findings.append(Finding(f"{NAME} --seed {seed}", f"seed {seed}: {failure.why.rstrip()}"))
    return report


def _show(reports: Iterable[Report], keep: Path | None, calls: bool) -> int:
    runs = failed = 0
    for report in reports:
        for finding in report.findings:
            _show_finding(finding, keep)
        print(report)
        if calls:
            for (name, answer), count in sorted(report.calls.calls.items()):
                print(f"{count:8} {name}: {answer}")
        runs += report.runs
        failed += len(report.findings)
    print(f"{max(0, runs - failed)} runs passed, {failed} failed")
    if not runs and not failed:
        raise CommandError("nothing was run: each engine was left out", exit_code=MISSING)
    return FAILED if failed else 0


def _show_finding(finding: Finding, keep: Path | None) -> None:
    print(finding.why)
    if finding.saved is not None:
        print(f"  the input: {finding.saved}")
    print(f"  again: {finding.again}")
    if keep is not None and finding.saved is not None:
        keep.mkdir(parents=True, exist_ok=True)
        print(f"  kept: {shutil.copy(finding.saved, keep / finding.saved.name)}")
