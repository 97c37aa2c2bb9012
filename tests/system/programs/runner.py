# SPDX-License-Identifier: MIT
"""Run a case: plain, under `vfioemu run`, and say what came of it."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.system.programs.cases import Case, Kind

_HERE: Final = Path(__file__).parent
_VFIOEMU: Final = str(_HERE.parents[2] / ".venv/bin/vfioemu")
_PATIENCE: Final = 300.0
_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        status: its exit status; 128 and the signal, as a shell says it; None if it had to be killed.
        output: what it wrote, to stdout and stderr.
    """

    status: int | None
    output: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case.

    Attributes:
        right: as it must be.
        text: for the report, a few words.
        details: for whoever mends it.
    """

    right: bool
    text: str
    details: str = ""


class MissingError(Exception):
    """Something that this suite needs is not here; the text says what to do."""


def check_place() -> None:
    """Look whether programs can be run here.

    Raises:
        MissingError: they were not fetched, or the system has no user namespaces for us.
    """
    test = subprocess.run([_HERE / "inside", "--test"], capture_output=True, text=True, check=False)
    if test.returncode:
        raise MissingError(test.stderr.strip() or "unshare --user --mount does not work here")


def versions() -> str:
    """The release that the programs are of."""
    return (_cache() / "programs/root/asked").read_text(encoding="utf-8").split()[0]


def _cache() -> Path:
    own = os.environ.get("VFIOEMU_CACHE")
    return Path(own or os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vfioemu"))


def judge(case: Case, folder: Path) -> Verdict:
    """Run a case in a folder of its own.

    The folder is emptied, and made again by `prepare`, before each run: both runs see the same.
    """
    command: Sequence[str] = ("bash", "-c", case.command)
    if case.kind is Kind.REFUSED:
        command = case.command.split()
    under = (_VFIOEMU, "run", *case.options, "--", *command)
    if case.kind is Kind.SAME:
        plain = _run(case, folder, command)
        return _compare(plain, _run(case, folder, under))
    return _hold(case, _run(case, folder, under))


def _run(case: Case, folder: Path, command: Sequence[str]) -> Ended:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = f'set -e; cd "$HOME"\n{case.prepare}\nexec "$@"'
    environment = {
        "HOME": str(folder),
        "SOURCES": str(_HERE / "sources"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PATH": os.defpath,
        "VFIOEMU_CACHE": str(_cache()),
    }
    process = subprocess.Popen(
        [_HERE / "inside", "bash", "-c", script, "case", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        return Ended(None, output.decode(errors="replace"))
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Ended(status, output.decode(errors="replace"))


def _compare(plain: Ended, under: Ended) -> Verdict:
    if plain.status is None:
        return Verdict(False, "hangs without the library", plain.output[-_SHOWN:])
    if not plain.output.strip():
        return Verdict(False, "printed nothing without the library", "")
    if under.status != plain.status:
        said = "hangs" if under.status is None else f"exit {under.status}, without {plain.status}"
        return Verdict(
            False, said, f"{plain.output[-_SHOWN:]}\n--- under the library\n{under.output[-_SHOWN:]}"
        )
    if under.output != plain.output:
        difference = _first_difference(plain.output, under.output)
        return Verdict(False, "other output", difference)
    return Verdict(True, f"the same, exit {plain.status}")


def _first_difference(plain: str, under: str) -> str:
    for number, (a, b) in enumerate(
        zip([*plain.splitlines(), ""], [*under.splitlines(), ""], strict=False), 1
    ):
        if a != b:
            return f"line {number}: {a!r}, under the library {b!r}"
    return f"{len(plain.splitlines())} lines, under the library {len(under.splitlines())}: {under[-_SHOWN:]}"


def _hold(case: Case, ended: Ended) -> Verdict:
    missing = [pattern for pattern in case.says if not re.search(pattern, ended.output)]
    if ended.status != case.status:
        said = "hangs" if ended.status is None else f"exit {ended.status}"
        return Verdict(False, said, ended.output[-_SHOWN:])
    if missing:
        return Verdict(False, f"does not say {missing[0]}", ended.output[-_SHOWN:])
    if case.kind is Kind.REFUSED:
        return Verdict(True, f"refused with {ended.status}")
    return Verdict(True, "works" if not case.limit else "works as far as it can")
