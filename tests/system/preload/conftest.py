# SPDX-License-Identifier: MIT
"""A daemon, and C programs that are compiled here and know nothing of it."""

import os
import subprocess
from pathlib import Path

import pytest
import trio

from tests.system.preload.model import GROUPS, MACHINE, Hardware, Mapped, device
from vfioemu import daemon, preload
from vfioemu.devices.registry import load_models

PROGRAMS = Path(__file__).parent / "programs"
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-nonnull", "-Werror"]
WARNINGS += ["-Wno-stringop-overflow", "-Wno-stringop-overread", "-Wno-array-bounds"]  # wrong on purpose
PATIENCE = 120.0


ROOT = Path(__file__).parents[3]
SHIM: list[str | Path] = [
    "-D_GNU_SOURCE", "-U_FORTIFY_SOURCE", "-fno-delete-null-pointer-checks", "-D__nonnull(arguments)=",
    "-D__attribute_nonnull__(arguments)=", '-DVFP_EXPORT=__attribute__((visibility("hidden")))',
    "-I", ROOT / "protocol", "-I", ROOT / "csrc" / "preload", *sorted((ROOT / "csrc" / "preload").glob("*.c")),
]  # fmt: skip
"""What links the library into a program, so that a sanitizer sees both: theirs stands before libc and behind ours."""


class Programs:
    """Compiles each program once."""

    def __init__(self, folder):
        self._folder = folder

    def __call__(self, name, *flags, sanitize=""):
        target = self._folder / "-".join(
            [name, sanitize, *(flag.strip("-").replace("=", "") for flag in flags)]
        )
        if not target.exists():
            optimize = "-O1" if sanitize else "-O2"
            command = ["cc", "-std=gnu11", optimize, "-g1", "-pthread", *WARNINGS, *flags]
            command += [f"-fsanitize={sanitize}", "-Wno-tsan", *SHIM] if sanitize else []
            command += ["-o", target, PROGRAMS / f"{name}.c"]
            subprocess.run(command, check=True, timeout=PATIENCE)
        return target


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(params=["ask", "process_vm"])
def memory(request):
    return request.param


@pytest.fixture
async def server(memory, monkeypatch):
    """A running daemon whose machine has a device with memory to map."""
    monkeypatch.setattr(
        "vfioemu.daemon.serve.load_models",
        lambda tried: load_models({"mapped": Mapped, "hardware": Hardware}, tried=tried),
    )
    async with daemon.running(MACHINE, memory=memory) as running:
        yield running
        running.dispatcher.poller.reap()
        assert running.dispatcher.counters.bugs == 0
        assert not len(running.server.tokens)


def environment(server, **more):
    return {
        **os.environ,
        "LD_PRELOAD": str(preload.library()),
        "VFIOEMU_SOCKET": str(server.socket_path),
        **more,
    }


@pytest.fixture
def run(server, programs):
    """Run a program with a group and a device of the machine: what it printed."""

    async def run(name, *arguments, symbol="basic", flags=(), sanitize="", **more):
        command = [programs(name, *flags, sanitize=sanitize), str(GROUPS[symbol]), device(symbol), *arguments]
        env = environment(server, **more)
        if sanitize:
            del env["LD_PRELOAD"]
            env["TSAN_OPTIONS"] = "die_after_fork=0"  # children of threads make a service thread of their own
        with trio.fail_after(PATIENCE):
            result = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, env=env
            )
        assert (result.returncode, result.stderr.decode()) == (0, "")
        return result.stdout.decode()

    return run
