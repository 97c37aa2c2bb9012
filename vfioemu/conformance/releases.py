# SPDX-License-Identifier: MIT
"""Traces of several kernels side by side: folders beside each other, each with an `_env.json` that names its kernel.

What one kernel answers as another does was recorded once. So under a profile that is not the recorded kernel's, a scenario
is held against the answers of the profile's own kernel where a folder beside has them, and else against those at hand.
"""

from dataclasses import replace

from vfioemu.conformance.machine import profile_of
from vfioemu.conformance.trace import ENVIRONMENT_FILE, Traces, load_environment, load_traces


def as_answered_by(profile: str, traces: Traces) -> list[Traces]:
    """The scenarios of `traces`, those first that were recorded anew on the kernel of `profile`, with its answers.

    Raises:
        TraceError: a folder beside is not what it seems to be.
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
