# SPDX-License-Identifier: MIT
"""`python -m vfioemu.testing.fuzz [SECONDS [FIRST_SEED]]`; `vfioemu fuzz` can do more."""

import sys

from vfioemu.testing.fuzz.campaign import campaign

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
first_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
runs = failed = 0
for summary in campaign(first_seed, seconds):
    runs += summary.runs
    failed += len(summary.failures)
    for failure in summary.failures:
        sys.stdout.write(f"seed {failure.seed}: {failure.why}\n")
sys.stdout.write(f"{runs - failed} runs passed, {failed} failed\n")
sys.exit(1 if failed else 0)
