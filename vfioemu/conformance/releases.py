# SPDX-License-Identifier: MIT
"""Find the traces of a kernel among folders side by side, each with an `_env.json` that names its kernel.

Scenarios that several kernels answer alike were recorded once. So under a profile other than that of the recorded kernel, a
scenario is compared with the answers of the profile's own kernel if a folder has them, and else with those at hand.
"""

from dataclasses import replace

from vfioemu.conformance.machine import profile_of
from vfioemu.conformance.trace import ENVIRONMENT_FILE, Traces, load_environment, load_traces


def as_answered_by(profile: str, traces: Traces) -> list[Traces]:
    """Return the scenarios of `traces`, with the answers of the kernel of `profile` where it was recorded; those come first.

    Raises:
        TraceError: a folder beside it is not a folder of traces.
    """
    if profile_of(traces.environment) == profile:
        return [traces]
    found = []
    left = {scenario.id: scenario for scenario in traces.scenarios}
    for file in sorted(traces.path.absolute().parent.parent.glob(f"*/{traces.path.name}")):
        if not (file.parent / ENVIRONMENT_FILE).exists():
            continue
        if profile_of(load_environment(file.parent)) != profile:
            continue
        other = load_traces(file)
        known = tuple(scenario for scenario in other.scenarios if left.pop(scenario.id, None) is not None)
        if known:
            found.append(replace(other, scenarios=known))
    return [*found, replace(traces, scenarios=tuple(left.values()))]
