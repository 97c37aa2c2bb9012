# SPDX-License-Identifier: MIT
"""A guest for which there is no room is refused with numbers, before anything is allocated."""

import errno
import resource

import pytest
import trio

from tests.migration.lab import Dma, guest, machine
from vfioemu.cli.hints import daemon_failed
from vfioemu.daemon.runtime_dir import StartError
from vfioemu.daemon.serve import running
from vfioemu.migration.building import BuildError, Step
from vfioemu.migration.guestspec import GuestSpec, MemorySpec
from vfioemu.migration.vfio import open_guest
from vfioemu.room import available, require_room

GIB = 1 << 30
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
MEMINFO = "MemTotal: 9 kB\nMemAvailable:    4194304 kB\nSwapFree:  1048576 kB\nCommitLimit: 2097152 kB\nCommitted_AS: 1048576 kB\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine of 5 GiB without other limits, and a function that adds files to it."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: NO_LIMIT)

    def add(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    add("proc/meminfo", MEMINFO)
    add("proc/sys/vm/overcommit_memory", "0\n")
    add("proc/self/statm", "262144 1 1 1 0 1 0\n")
    return tmp_path, add


def told(root, size):
    with pytest.raises(OSError, match=r".") as error:
        require_room("the guest", size, largest=size, root=root)
    return error.value.errno, error.value.strerror


def test_free_memory_and_swap_are_the_limit(root):
    base, _ = root
    require_room("the guest", 5 * GIB, root=base)
    assert told(base, 64 << 40) == (
        errno.ENOMEM,
        "the guest needs 64.0 TiB, available are 5.0 GiB (MemAvailable and SwapFree of /proc/meminfo)",
    )
    assert told(base, 5 * GIB + 1)[0] == errno.ENOMEM


@pytest.mark.parametrize(
    ("cgroup", "files", "says"),
    [
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/a/memory.max": "1073741824\n",
                "sys/fs/cgroup/a/memory.current": "1000000000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 400000000\nactive_file 63129088\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "0\n",
            },
            "available are 512.0 MiB (memory.max of cgroup /a)",
        ),
        (
            "3:cpu,memory:/x\n0::/\n",
            {
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "2097152\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
            },
            "available are 0 B (memory.limit_in_bytes of cgroup /x)",
        ),
        (
            "0::/\n",
            {"proc/sys/vm/overcommit_memory": "2\n"},
            "1.0 GiB (CommitLimit, vm.overcommit_memory is 2)",
        ),
    ],
)
def test_limits_of_cgroups_and_of_the_kernel_count(root, cgroup, files, says):
    base, add = root
    add("proc/self/cgroup", cgroup)
    for name, text in files.items():
        add(name, text)
    assert says in told(base, 2 * GIB)[1]


def test_limits_of_the_process_count(root, monkeypatch):
    base, _ = root
    limits = {resource.RLIMIT_AS: (2 * GIB, 2 * GIB), resource.RLIMIT_FSIZE: (GIB, GIB)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits.get(which, NO_LIMIT))
    assert told(base, 2 * GIB) == (
        errno.EFBIG,
        "the guest needs a file of 2.0 GiB, the limit is 1.0 GiB (ulimit -f)",
    )
    with pytest.raises(OSError, match=r"available are 1\.0 GiB \(address space, ulimit -v\)"):
        require_room("the guest", 2 * GIB, largest=GIB // 2, root=base)


def test_machine_that_tells_nothing_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: NO_LIMIT)
    assert list(available(tmp_path)) == []
    require_room("the guest", 64 << 40, largest=64 << 40, root=tmp_path)


async def test_many_blocks_are_summed_up_and_nothing_of_them_is_made():
    spec = GuestSpec(memory=[MemorySpec(name=f"m{i}", base=i << 41, size="2 TiB") for i in range(60)])
    with pytest.raises(BuildError, match=r"the guest needs 120\.2 TiB") as error:
        async with open_guest("/nowhere", spec, running=True):
            pytest.fail("it was built")
    assert "give the guest less memory" in daemon_failed("/nowhere", error.value).hint


async def test_building_tells_how_far_it_is_and_is_cancelled_between_two_steps():
    """There is no daemon behind the session: RAM gets its contents before anything is asked of one."""
    from vfioemu.migration.vfio import _make_ram

    class Session:
        async def share_memory(self, memory):
            pytest.fail("it was not cancelled")

    seen, memories = [], []
    with trio.CancelScope() as scope:

        def progress(done, total):
            seen.append((done, total))
            if len(seen) == 2:
                scope.cancel()

        await _make_ram(Session(), guest(mib=128), memories, progress, 5.0, contents=True)
    assert scope.cancelled_caught
    assert seen == [(8 << 20, 128 << 20), (16 << 20, 128 << 20)]
    for memory in memories:
        memory.abandon()


async def test_machine_with_more_devices_or_device_memory_than_there_is_does_not_start(monkeypatch):
    monkeypatch.setattr("vfioemu.room.available", lambda root: [(GIB, "a test")])
    few = [Dma(options={"type": 1})]
    large = [Dma(options={"type": 1, "big-bar": 64 << 20}) for _ in range(20)]
    async with running(machine(*few)):
        pass
    with pytest.raises(StartError, match=r"the machine needs 1\.[23] GiB, available are 1\.0 GiB \(a test\)"):
        async with running(machine(*large)):
            pytest.fail("it has started")
    many = [Dma(options={"type": 1}) for _ in range(1500)]
    with pytest.raises(StartError, match=r"the machine needs 1\.[4-9] GiB, available are"):
        async with running(machine(*many)):
            pytest.fail("it has started")


@pytest.mark.parametrize(
    ("step", "number", "says"),
    [
        (Step.CONNECT, errno.ENOENT, "is the daemon running?"),
        (Step.CONNECT, errno.ECONNREFUSED, "is the daemon running?"),
        (Step.CONNECT, errno.EACCES, "another user's daemon"),
        (Step.GROUP, errno.ENOENT, "there is no such group"),
        (Step.GROUP, errno.EBUSY, "another process has the group open"),
        (Step.DEVICE, errno.ENODEV, "there is no such device"),
        (Step.PROGRAM, errno.ENODEV, "without [container.device.program]"),
        (Step.MEMORY, errno.ENOMEM, "ulimit -l"),
        (Step.MEMORY, errno.EPIPE, "the daemon has ended, or its log says why"),
        (Step.DEVICE, errno.EIO, "the daemon has ended, or its log says why"),
        (Step.GROUP, errno.EMFILE, "ulimit -n"),
        (Step.OTHER, errno.EINVAL, ""),
    ],
)
def test_hint_is_that_of_the_step_and_the_errno(step, number, says):
    hint = daemon_failed("/d/vfio.sock", BuildError(step, number, "why", "what")).hint
    assert ("serve --runtime-dir /d " in hint) == ("running" in says)
    assert says in hint
    assert ("is the daemon running" in hint) == ("running" in says)
