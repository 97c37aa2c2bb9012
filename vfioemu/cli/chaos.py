# SPDX-License-Identifier: MIT
"""`vfioemu chaos`: let migrations go wrong in every way that is known, and hold what comes of it against what has to."""

import time
from collections.abc import Iterable

import click

from vfioemu.cli.chaos_real import BOUND, run_real
from vfioemu.cli.errors import FAILED, CommandError
from vfioemu.cli.values import DURATION
from vfioemu.migration.chaos.explorer import Bounds, explore
from vfioemu.migration.chaos.faults import Fault, Phase
from vfioemu.migration.chaos.matrix import Cell, run_blows, run_matrix, run_seed, shrink
from vfioemu.migration.chaos.world import Parts


@click.command(name="chaos")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="TEXT",
    help="Only faults with TEXT in their name. [default: all]",
)
@click.option(
    "--phase",
    "phases",
    multiple=True,
    type=click.Choice([phase.value for phase in Phase]),
    help="Only this phase.",
)
@click.option(
    "--seed", type=int, help="Instead of the table: several faults at once, drawn from this number."
)
@click.option(
    "--count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="With --seed: so many seeds from it on.",
)
@click.option("--shrink", "shrinking", is_flag=True, help="With --seed: leave out faults that do not matter.")
@click.option(
    "--real",
    type=click.IntRange(1),
    metavar="N",
    help="Instead of the table: N migrations between real processes, of which one is killed or stopped at a moment that"
    " --seed draws.",
)
@click.option(
    "--longest",
    type=DURATION,
    default="3s",
    show_default=True,
    help="With --real: how long one is stopped at most.",
)
@click.option(
    "--explore",
    "everything",
    is_flag=True,
    help="Instead of the table: go through all states of a hand-over (a minute).",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    faults: tuple[str, ...],
    phases: tuple[str, ...],
    seed: int | None,
    count: int,
    shrinking: bool,
    real: int | None,
    longest: float,
    everything: bool,
) -> int:
    """Move small guests in virtual time while something goes wrong, in each of 17 phases.

    Prints, for each fault and phase, who runs the guest in the end (S: the source, D: the destination, N: nobody) and the
    exit code of the source; `!` is not as expected. docs/migration.md says what the table means.
    """
    quiet = bool(ctx.find_root().params.get("quiet"))
    if everything:
        return _explore()
    if real is not None:
        return _real(real, seed or 0, longest, quiet=quiet)
    if seed is not None:
        return _seeds(range(seed, seed + count), shrinking=shrinking, quiet=quiet)
    chosen = [fault for fault in Fault if not faults or any(text in fault for text in faults)]
    if not chosen:
        raise CommandError(f"no fault has {' or '.join(map(repr, faults))} in its name", exit_code=2)
    return _matrix(chosen, [Phase(phase) for phase in phases] or list(Phase), quiet=quiet)


def _matrix(faults: list[Fault], phases: list[Phase], *, quiet: bool) -> int:
    began = time.monotonic()
    width = max(map(len, faults))
    wrong: list[Cell] = []
    done = 0
    if not quiet:
        for number, phase in enumerate(phases):
            print(f" {'':{width}}  {'|  ' * number}{phase}")
    for fault in faults:
        row = ""
        for cell in run_matrix([fault], phases):
            done += 1
            row += f"{cell.ending}{' ' if cell.right else '!'}"
            if not cell.right:
                wrong.append(cell)
        if not quiet:
            print(f" {fault:{width}}  {row}", flush=True)
    for cell in wrong:
        print(f" NOT AS EXPECTED {cell}")
    print(f" {done} migrations, {len(wrong)} not as expected, in {time.monotonic() - began:.1f} s")
    return FAILED if wrong else 0


def _seeds(seeds: Iterable[int], *, shrinking: bool, quiet: bool) -> int:
    wrong = 0
    for seed in seeds:
        cell = run_seed(seed)
        if not cell.right and shrinking:
            fewer = shrink(cell.blows, lambda blows: not run_blows(blows).right)
            print(f" seed {seed}, without what does not matter:")
            cell = run_blows(fewer)
        wrong += not cell.right
        if not quiet or not cell.right:
            print(f" seed {seed}: {'' if cell.right else 'BROKEN '}{cell}", flush=True)
    return FAILED if wrong else 0


def _real(count: int, seed: int, longest: float, *, quiet: bool) -> int:
    print(f" a source that has not ended {BOUND:g} s after its start hangs", flush=True)
    wrong = 0
    for number, (attack, outcome, broken) in enumerate(run_real(count, seed, longest)):
        wrong += bool(broken)
        if broken or not quiet:
            print(f" {number}: {attack}: {outcome}", flush=True)
        for what in broken:
            print(f"   BROKEN: {what}", flush=True)
    print(f" {count} migrations, {wrong} not as they have to be")
    return FAILED if wrong else 0


def _explore() -> int:
    broken = 0
    for shared in (True, False):
        report = explore(Parts(shared=shared), Bounds())
        print(f" {'one state directory' if shared else 'two state directories'}: {report}", flush=True)
        broken += report.broken is not None
    return FAILED if broken else 0
