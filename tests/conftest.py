# SPDX-License-Identifier: MIT
"""What all tests share: Hypothesis profiles, surroundings of their own (surroundings.py), folders for tests as two users.

`make test` runs the profile "quick", which is the same on every machine and every run; `make test-full` runs "full".
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import skips
from tests.surroundings import Surroundings
from tests.users import common, open_folder, two_users  # noqa: F401 - fixtures

ANY_SPEED = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", ANY_SPEED, max_examples=60)
settings.register_profile("full", ANY_SPEED, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

pytest_addoption = skips.pytest_addoption
SURROUNDINGS = pytest.StashKey[Surroundings]()
LEFT = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)  # before pytest looks for a place for its temporary files, and starts workers
def pytest_configure(config):
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist has the environment of who started it
    config.pluginmanager.register(skips.Guard(), "defended-skips")
    config.stash[SURROUNDINGS] = Surroundings()
    config.stash[SURROUNDINGS].enter()
    if config.option.basetemp is None:
        config.option.basetemp = os.fspath(config.stash[SURROUNDINGS].base / "p")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session):
    result = yield  # workers end here
    surroundings = session.config.stash.get(SURROUNDINGS, None)
    if surroundings is not None:
        session.config.stash[LEFT] = surroundings.leave()
        if session.config.stash[LEFT] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"FAILED: tests leave nothing behind: {line}", red=True)
