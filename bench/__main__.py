# SPDX-License-Identifier: MIT
"""Measure, and print one table.

    python -m bench [--only SUITE]... [--json]

Exit status: 0 whatever the numbers are, 1 if a benchmark could not be run.
"""

import argparse
import importlib
import json
import sys
import traceback

from bench.harness import Row, Suite, Unavailable, print_table

SUITES = ("kernel", "calls", "shim", "trace", "load", "migration", "qemu")


def main() -> int:
    """Run the suites that are asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=SUITES, help="leave out the other suites")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object for each row, as soon as it is ready"
    )
    options = parser.parse_args()

    rows: list[Row] = []
    crashed = False
    for name in options.only or SUITES:
        try:
            run: Suite = importlib.import_module(f"bench.{name}").run
            for row in run():
                rows.append(row)
                if options.json:
                    print(json.dumps(row.as_json()), flush=True)
                else:
                    print(f"{row.suite}: {row.name}: {row.ratio:.3g}", file=sys.stderr, flush=True)
        except Unavailable as missing:
            print(f"{name}: left out: {missing}", file=sys.stderr)
        except Exception:  # noqa: BLE001 - the other suites go on
            traceback.print_exc()
            print(f"{name}: could not be measured", file=sys.stderr)
            crashed = True
    if not options.json:
        print_table(rows)
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
