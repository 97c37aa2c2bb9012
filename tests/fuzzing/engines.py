# SPDX-License-Identifier: MIT
"""The engines of the fuzzers, and what they find.

======  ===========================================================================================================
walk    runs of seeds (run.py): sensible calls with bad ones among them, all held against the model; in this process
guided  atheris on programs and storms (entry.py), guided by the coverage of the core; processes of their own
kernel  the fuzz targets of the C kernel (csrc/fuzz_*.c), with libFuzzer or without; processes of their own
======  ===========================================================================================================

An input that makes `guided` or `kernel` fail is a file. Its name says which engine takes it: ``guided-...`` or
``NAME-...`` for the target fuzz_NAME.
"""

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from tests.fuzzing.campaign import Summary, campaign
from tests.fuzzing.golden import programs
from tests.fuzzing.program import MAX_STEPS, encode
from tests.fuzzing.shrink import explain, shrink
from vfioemu.starting import dying_with_us, python

NAME: Final = "python -m tests.fuzzing"
"""The command that starts them."""
NAMES: Final = ("walk", "guided", "kernel")
ROOT: Final = Path(__file__).parents[2]
SHRINK_SECONDS: Final = 30.0
SEEDS: Final = 400
"""How many golden scenarios a corpus begins with."""
SLOWEST: Final = 120
"""Seconds after which an input is a finding: the core is in an endless loop."""
_Running: TypeAlias = tuple[str, Path, Path, "subprocess.Popen[bytes]"]
"""Its name, its log, what artifacts begin with, and its process."""
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units: (\d+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong.

    Attributes:
        again: the command that shows it again.
        why: what it is.
        saved: the file with the input, if there is one.
    """

    again: str
    why: str
    saved: Path | None = None


@dataclass(slots=True)
class Report:
    """What an engine did.

    Attributes:
        engine: its name, and what of it.
        runs: how many inputs.
        seconds: how long.
        findings: what is wrong.
        skipped: why it did nothing, if so.
        calls: how often a call was answered with what, where that is counted.
    """

    engine: str
    runs: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    skipped: str = ""
    calls: Summary = field(default_factory=Summary)

    def __str__(self) -> str:
        """One line."""
        if self.skipped:
            return f"{self.engine}: skipped: {self.skipped}"
        return f"{self.engine}: {self.runs} runs in {self.seconds:.0f} s, {len(self.findings)} failed"


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be done.

    Attributes:
        seconds: for all engines together.
        jobs: processes at a time.
        seed: what random choices begin with.
        work: where corpora and findings are kept.
        golden: golden traces to begin with, if they are here.
        targets: the folder with the programs fuzz_*.
    """

    seconds: float
    jobs: int
    seed: int
    work: Path
    golden: Path | None
    targets: Path

    def run(self, engines: Sequence[str]) -> Iterator[Report]:
        """Run the engines one after the other; those that cannot run leave their time to the others."""
        missing = {name: why for name in engines if (why := self.missing(name))}
        for name, why in missing.items():
            yield Report(name, skipped=why)
        present = [name for name in engines if name not in missing]
        left = sum(_SHARES[name] for name in present)
        for name in present:
            seconds = self.seconds * _SHARES[name] / left
            if name == "walk":
                yield self._walk(seconds)
            elif name == "guided":
                yield self._guided(seconds)
            else:
                yield from self._kernel(seconds)

    def missing(self, engine: str) -> str:
        """Why an engine cannot run here; "" if it can."""
        if engine == "guided" and importlib.util.find_spec("atheris") is None:
            return "atheris is not installed (make fuzz installs it)"
        if engine == "kernel" and not self._targets():
            return f"there are no programs fuzz_* in {self.targets} (make fuzz builds them)"
        return ""

    # --- engines ---

    def _walk(self, seconds: float) -> Report:
        report, begin = Report("walk"), time.monotonic()
        for summary in campaign(self.seed, seconds, self.jobs):
            report.calls.add(summary)
        for failure in report.calls.failures:
            again = f"{NAME} --seed {failure.seed}"
            report.findings.append(Finding(again, f"seed {failure.seed}: {failure.why.rstrip()}"))
        report.runs, report.seconds = report.calls.runs, time.monotonic() - begin
        if not report.runs:
            report.findings.append(Finding(f"{NAME} --engine walk", "walk ran nothing"))
        return report

    def _guided(self, seconds: float) -> Report:
        corpus = self.work / "corpus" / "guided"
        corpus.mkdir(parents=True, exist_ok=True)
        if self.golden is not None and not any(corpus.iterdir()):
            plant_corpus(self.golden, corpus)
        base = python("tests.fuzzing.guided", "-max_len=16384", "-reload=5")
        commands = [
            ("guided", [*base, f"-timeout={SLOWEST}", f"-seed={self.seed + n}", str(corpus)])
            for n in range(self.jobs)
        ]
        return self._libfuzzer("guided", commands, seconds)

    def _kernel(self, seconds: float) -> Iterator[Report]:
        targets = self._targets()
        for first in range(0, len(targets), self.jobs):
            batch = targets[first : first + self.jobs]
            commands = []
            for target in batch:
                name = target.name.removeprefix("fuzz_")
                corpus = self.work / "corpus" / name
                corpus.mkdir(parents=True, exist_ok=True)
                commands.append((name, [str(target), "-max_len=2048", f"-seed={self.seed + 1}", str(corpus)]))
            share = seconds * len(batch) / len(targets)
            names = ", ".join(name for name, _ in commands)
            yield self._libfuzzer(f"kernel ({names})", commands, share)

    def _libfuzzer(self, engine: str, commands: Sequence[tuple[str, list[str]]], seconds: float) -> Report:
        """Run processes that take libFuzzer's options, side by side."""
        report, begin = Report(engine), time.monotonic()
        findings = self.work / "findings"
        findings.mkdir(parents=True, exist_ok=True)
        running = []
        for number, (name, command) in enumerate(commands):
            log = self.work / f"{name}-{number}.log"
            prefix = self.work / f"artifact-{os.getpid()}-{number}-"
            options = [f"-max_total_time={max(1, round(seconds))}", f"-artifact_prefix={prefix}"]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*command, *options, "-print_final_stats=1"],
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},  # where `tests` is
                    preexec_fn=dying_with_us(signal.SIGKILL),
                )
            running.append((name, log, prefix, process))
        try:
            self._wait(report, running, findings)
        finally:
            for *_, process in running:
                process.kill()  # if we were interrupted
                process.wait()
        report.seconds = time.monotonic() - begin
        return report

    def _wait(self, report: Report, running: Sequence[_Running], findings: Path) -> None:
        """Wait for such processes, and report what they did."""
        for name, log, prefix, process in running:
            status = process.wait()
            text = log.read_text(encoding="utf-8", errors="replace")
            runs = sum(int(number) for number in _EXECUTED.findall(text))
            report.runs += runs
            saved = [_keep(path, findings, name) for path in sorted(prefix.parent.glob(f"{prefix.name}*"))]
            for path in saved:
                report.findings.append(Finding(f"{NAME} --input {path}", _why(path, name, text), path))
            if status and not saved:
                report.findings.append(Finding(f"see {log}", f"{name} ended with status {status}"))
            elif not runs and not saved:
                report.findings.append(Finding(f"see {log}", f"{name} ran nothing"))

    def _targets(self) -> list[Path]:
        return sorted(
            path for path in self.targets.glob("fuzz_*") if path.is_file() and os.access(path, os.X_OK)
        )


def plant_corpus(golden: Path, corpus: Path, limit: int = SEEDS) -> int:
    """Write golden scenarios as inputs, of each family about as many; returns how many."""
    by_family: dict[str, list[bytes]] = {}
    for name, steps in programs(golden):
        family = name.partition("/")[0]
        by_family.setdefault(family, []).append(b"\0" + encode(steps[:MAX_STEPS]))
    share = max(1, limit // max(1, len(by_family)))
    written = 0
    for inputs in by_family.values():
        for data in inputs[:: max(1, len(inputs) // share)][:share]:
            (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
            written += 1
    return written


def replay(path: Path, targets: Path) -> Report:
    """Run one saved input again; its name says how.

    Raises:
        FileNotFoundError: the target that the name asks for is not there.
    """
    name = path.name.partition("-")[0]
    report = Report(name, runs=1)
    if name == "guided":
        why = explain(path.read_bytes())
        failed = bool(why)
    else:
        target = targets / f"fuzz_{name}"
        if not target.is_file():
            raise FileNotFoundError(f"{path.name} is for {target}, which is not there (make fuzz builds it)")
        done = subprocess.run([target, path], capture_output=True, text=True, errors="replace", check=False)
        why, failed = done.stderr, done.returncode != 0
    if failed:
        report.findings.append(Finding(f"{NAME} --input {path}", why.rstrip(), path))
    return report


def _keep(artifact: Path, findings: Path, name: str) -> Path:
    """Shrink an input, and give it a name that lasts."""
    data = artifact.read_bytes()
    if name == "guided":
        data = shrink(data, SHRINK_SECONDS)
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]
    path = findings / f"{name}-{digest}"
    path.write_bytes(data)
    artifact.unlink()
    return path


def _why(path: Path, name: str, log: str) -> str:
    if name == "guided" and (why := explain(path.read_bytes())):
        return why.rstrip()
    return "\n".join(log.splitlines()[-30:])


_SHARES: Final = {"walk": 2, "guided": 5, "kernel": 3}
"""How the time is shared."""
