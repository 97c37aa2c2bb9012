# SPDX-License-Identifier: MIT
"""`vfioemu conformance`: compare our answers with a real kernel's."""

import os
from pathlib import Path

import click

from vfioemu.cli.errors import FAILED, USAGE, CommandError
from vfioemu.conformance.releases import as_answered_by
from vfioemu.conformance.report import describe
from vfioemu.conformance.runner import Options, Outcome, plan, run
from vfioemu.conformance.trace import TraceError, load_traces
from vfioemu.daemon.config import ConfigError
from vfioemu.uapi import releases


@click.command(name="conformance")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--socket", "through_socket", is_flag=True, help="Through a live daemon instead of in process.")
@click.option(
    "--memory",
    type=click.Choice(["ask", "process_vm"]),
    default="process_vm",
    show_default=True,
    help="With --socket: how the daemon reaches the client's memory.",
)
@click.option("--machine", type=click.Path(path_type=Path), help="A machine file instead of the traces' own.")
@click.option(
    "--profile",
    type=click.Choice(releases.names()),
    help="A kernel profile instead of the recorded kernel's: held against its own traces in a folder beside, if any.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), default=os.cpu_count(), help="Worker processes.")
@click.option("-q", "--quiet", is_flag=True, help="Name what fails, without the differences.")
def command(
    files: tuple[Path, ...],
    through_socket: bool,
    memory: str,
    machine: Path | None,
    profile: str | None,
    jobs: int,
    quiet: bool,
) -> int:
    """Replay recorded traces and compare every bit of every answer with the kernel's.

    FILE is a trace file (JSON lines) with its `_env.json` beside it, or a folder of them. Exit status 1 if any answer
    differs.
    """
    options = Options(memory if through_socket else None, machine, profile, jobs)
    try:
        traces = [load_traces(path) for file in files for path in _expand(file)]
        if profile is not None:
            traces = [part for file in traces for part in as_answered_by(profile, file)]
        work = plan(traces, options)
    except (TraceError, ConfigError) as error:
        raise CommandError(str(error), exit_code=USAGE) from error
    passed = failed = 0
    for outcome in run(work, options):
        if outcome.passed:
            passed += 1
            continue
        failed += 1
        _print_failure(outcome, quiet=quiet)
    print(f"{passed} passed, {failed} failed")
    return FAILED if failed or not passed else 0


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.jsonl"))
    if not found:
        raise CommandError(f"{path}: no trace files (*.jsonl) in this folder", exit_code=USAGE)
    return found


def _print_failure(outcome: Outcome, *, quiet: bool) -> None:
    print(f"{outcome.scenario}: failed")
    if quiet:
        return
    if outcome.crash is not None:
        print(outcome.crash)
    for difference in outcome.differences:
        print(describe(difference))
