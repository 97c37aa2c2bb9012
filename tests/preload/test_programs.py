# SPDX-License-Identifier: MIT
"""Ordinary VFIO programs under the preload library: nothing in them knows of it."""


async def test_life(run):
    assert await run("life") == "ok\n"


async def test_fds(run):
    assert await run("fds") == "ok\n"


async def test_processes(run):
    assert await run("processes") == ""
