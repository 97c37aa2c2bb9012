# SPDX-License-Identifier: MIT
"""What all tests share: Hypothesis profiles.

`make test` runs the profile "quick", which is the same on every machine and every run; `make test-full` runs "full".
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
settings.register_profile(
    "full", max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
