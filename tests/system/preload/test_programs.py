# SPDX-License-Identifier: MIT
"""Ordinary VFIO programs under the preload library: nothing in them knows of it."""

import pytest

from tests.system.preload.model import GROUPS, device


@pytest.mark.parametrize(
    "name", ["allocator", "confined", "fds", "life", "limits", "raw", "signals", "threads"]
)
async def test_program(run, name):
    assert await run(name) == "ok\n"


async def test_processes(run):
    assert await run("processes") == ""


async def test_two_fd_tables(run):
    assert await run("fds", "apart") == "ok\n"


async def test_dma(run, server, memory, tmp_path):
    assert await run("dma", str(tmp_path)) == "ok\n"

    counted = {name: count for name, error, count in server.dispatcher.counters.named_calls() if not error}
    # Sealed memfds at least are mapped, not copied; all other files too where the daemon is the program's alone.
    assert counted["mem_share"] >= (6 if memory == "ask" else 9)
    assert counted["mem_unshare"] >= 4


async def test_windows(run):
    assert await run("windows") == "ok\n"


async def test_pinned(run, server, tmp_path):
    other = str(GROUPS["mapped"]), device("mapped")
    assert await run("pinned", str(tmp_path), *other, symbol="hardware") == "ok\n"

    remarks = server.dispatcher.counters.remarks
    assert remarks["discarded"] >= 3 + 3 * 3  # two in private memory, one more by twice(), three in each file
    assert "not kept" not in remarks


async def test_named(run, tmp_path):
    assert await run("named", str(tmp_path)) == "ok\n"


async def test_mapping(run):
    assert await run("mapping", symbol="mapped") == "ok\n"


async def test_a_mapping_holds_its_device(run):
    assert await run("holds", symbol="mapped") == "ok\n"


async def test_migrate(run):
    assert await run("migrate", symbol="migspc") == "ok\n"


async def test_fortified(run):
    assert await run("fortify", flags=("-D_FORTIFY_SOURCE=2",)) == "ok\n"


async def test_what_works_on_any_file(run, tmp_path):
    assert await run("passes", str(tmp_path / "file")) == "ok\n"
