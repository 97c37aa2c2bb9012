# SPDX-License-Identifier: MIT
"""Threads and children at random, with the library as it is and as the sanitizers see it."""

import subprocess

import pytest

SEED = "20261121"
SANITIZERS = {"address,undefined": "__asan_init", "thread": "__tsan_init"}


async def test_stress(run):
    assert int((await run("stress", "2", SEED, symbol="mapped")).split()[0]) > 100


@pytest.mark.full
async def test_stress_for_a_minute(run):
    assert int((await run("stress", "60", SEED, symbol="mapped")).split()[0]) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", SANITIZERS)
@pytest.mark.parametrize("memory", ["ask"])
async def test_stress_sanitized(run, programs, sanitize):
    assert int((await run("stress", "3", SEED, symbol="mapped", sanitize=sanitize)).split()[0]) > 10
    symbols = subprocess.run(
        ["nm", programs("stress", sanitize=sanitize)], check=True, capture_output=True, text=True
    ).stdout
    assert SANITIZERS[sanitize] in symbols


# What forks behind the back of libc, or has fds of its own in a thread, is beyond ThreadSanitizer's own thread.
BEYOND = {("fds", "thread"), ("raw", "thread")}


@pytest.mark.full
@pytest.mark.parametrize("sanitize", SANITIZERS)
@pytest.mark.parametrize("name", ["dma", "fds", "life", "migrate", "raw", "signals", "stress", "threads"])
async def test_programs_sanitized(run, tmp_path, name, sanitize):
    if (name, sanitize) in BEYOND:
        return
    arguments = {"dma": [str(tmp_path)], "stress": ["10", SEED]}.get(name, [])
    symbol = {"migrate": "migspc", "stress": "mapped"}.get(name, "basic")
    await run(name, *arguments, symbol=symbol, sanitize=sanitize)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["ask"])
async def test_a_thread_sanitizer_knows_that_a_page_of_names_has_gone(run):
    """With more threads than pieces: the system gives the page that one thread has unmapped to another one."""
    await run("threads", flags=["-DPIECES=1"], sanitize="thread")
