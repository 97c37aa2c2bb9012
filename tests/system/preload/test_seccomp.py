# SPDX-License-Identifier: MIT
"""The library under seccomp filters: it makes the calls that its page lists, and no other."""

import re
from pathlib import Path

import pytest
import trio

from tests.system.preload.conftest import PATIENCE, environment
from tests.system.preload.model import GROUPS, device

PAGE = Path(__file__).parents[3] / "docs" / "preload.md"
ROW = re.compile(r"^\| .* \|((?: `\w+`)+) \|$", re.MULTILINE)
AT_WORK, NEEDED = 5, 1


def listed(rows):
    """The system calls of the first rows of the table in docs/preload.md."""
    section = PAGE.read_text(encoding="utf-8").partition("## Under a seccomp filter")[2]
    found = ROW.findall(section)
    assert len(found) > AT_WORK
    return sorted(set(re.findall(r"\w+", " ".join(found[:rows]))))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text("text", encoding="ascii")
    return str(tmp_path / "text")


async def test_without_a_filter(run, text):
    assert await run("filtered", "free", text) == "begins\nok\n"


async def test_filter_after_the_devices_are_open(run, text):
    assert await run("filtered", "work", text, *listed(AT_WORK)) == "begins\nok\n"


async def test_filter_before_anything(run, text):
    assert await run("filtered", "all", text, *listed(None)) == "begins\nok\n"


async def test_what_is_missing_is_fatal(run, text):
    """Else these tests would show nothing."""
    for name in ("getpeername", "sendmsg", "process_vm_readv"):
        with pytest.raises(AssertionError, match="-31"):
            await run("filtered", "work", text, *(set(listed(AT_WORK)) - {name}))


@pytest.mark.parametrize("how", ["refuse", "enosys"])
async def test_what_there_is_another_way_for(run, text, how):
    assert await run("filtered", how, text, *listed(NEEDED), "fcntl") == "begins\nok\n"


@pytest.mark.parametrize("how", ["refuse", "enosys"])
async def test_what_is_refused_is_eio(server, programs, text, how):
    command = [programs("filtered"), str(GROUPS["basic"]), device("basic"), f"eio-{how}", text, "fstat"]
    said = {}
    for debug in ("", "shim"):
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment(server, VFIOEMU_DEBUG=debug),
            )
        assert (done.returncode, done.stdout) == (0, b"begins\nok\n"), done.stderr
        said[debug] = [line for line in done.stderr.decode().splitlines() if "forbidden" in line]

    assert not said[""]
    [line] = said["shim"]
    assert "getpeername() is forbidden" in line
    assert "docs/preload.md" in line
