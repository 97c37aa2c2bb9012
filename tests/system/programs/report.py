# SPDX-License-Identifier: MIT
"""What the programs did: a table for the terminal, docs/programs.md, and results that a later run is held against."""

import datetime as dt
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.programs.cases import Case, Kind
from tests.system.programs.runner import Verdict

_PAGE = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- Written by `make test-programs`; not by hand. -->
# Programs from elsewhere

Programs of Debian, and clients in several languages, under `vfioemu run`: what nobody here wrote, and what is written as it is
written elsewhere. This is the last run of `make test-programs`, which fetches them; the commands are in
tests/system/programs/cases.py.

| | |
|---|---|
| date | {date} |
| programs | of Debian ({suite}) |
| host | Linux {host} |
| result | {right} of {total} as they must be |

*The same*: exit status and output are those without the library. *Works*: it used the devices, and said so. *Refused*: the
library cannot reach it, and `vfioemu run` says that before it starts anything.

| program | must | {before_title}result |
|---|---|{before_rule}---|
{rows}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A case, and what came of it."""

    case: Case
    verdict: Verdict


class Report:
    """All rows of a run.

    Args:
        before: results of an earlier run, by name; a column of the page.
    """

    def __init__(self, before: Mapping[str, str]) -> None:
        self.rows: list[Row] = []
        self._before = before

    def table(self) -> str:
        """For a terminal."""
        width = max(len(row.case.name) for row in self.rows)
        return "".join(
            f"{'ok    ' if row.verdict.right else 'FAILED'}  {row.case.name.ljust(width)}  {row.verdict.text}\n"
            for row in self.rows
        )

    def page(self, suite: str) -> str:
        """docs/programs.md."""
        return _PAGE.format(
            date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            suite=suite,
            host=platform.release(),
            right=sum(row.verdict.right for row in self.rows),
            total=len(self.rows),
            before_title="before | " if self._before else "",
            before_rule="---|" if self._before else "",
            rows="\n".join(self._lines()),
        )

    def results(self) -> str:
        """For `--programs-before` of a later run: JSON, an object from names to results."""
        return json.dumps({row.case.name: row.verdict.text for row in self.rows}, indent=1) + "\n"

    def _lines(self) -> Iterator[str]:
        for row in self.rows:
            must = {Kind.SAME: "do the same", Kind.USES: "work", Kind.REFUSED: "be refused"}[row.case.kind]
            text = row.verdict.text if row.verdict.right else f"**{row.verdict.text}**"
            if row.case.limit:
                text += f" ({row.case.limit})"
            cells = [
                row.case.name,
                must,
                *([self._before.get(row.case.name, "")] if self._before else []),
                text,
            ]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def read_results(path: Path) -> Mapping[str, str]:
    """What `Report.results` wrote."""
    found: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found
