# SPDX-License-Identifier: MIT
"""Guest memory of each kind, reached in each way, in namespaces and containers; and what counts as locked."""

import json
import shutil
import subprocess

import pytest

from tests.sample import sampled
from tests.system.run.helpers import HERE, PATIENCE, Runner, compile_c

ENGINE = "--device=dma-engine,type=2,big-bar=0x100000"
ALL = dict.fromkeys(("private", "anonymous", "memfd", "copied", "bar"), "ok")
MIB = 1 << 20


@pytest.fixture(scope="module")
def ram(tmp_path_factory):
    """tests/system/run/ram.c, compiled."""
    return compile_c(HERE / "ram.c", tmp_path_factory.mktemp("ram") / "ram")


def kinds(text):
    return dict(line.split(" ", 1) for line in text.splitlines())


def unshare(*options):
    """A command that runs another one in new namespaces; skips where the system does not let us."""
    line = ["unshare", *options]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*line, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip(f"{' '.join(line)} is not allowed here")
    return line


@pytest.mark.parametrize("memory", ["ask", "process_vm", "auto"])
def test_every_kind_of_memory_is_reached_in_each_way_with_a_small_limit(ram, memory):
    assert kinds(Runner(ENGINE, f"--memory={memory}").output(ram, "{group}", "{bdf}", 4 * MIB)) == ALL


@pytest.mark.parametrize(
    "options",
    [["-pf"], ["-pf", "--mount-proc"], ["-Ur"], ["-Urpf"], ["-Urpf", "--mount-proc"], ["-Urn"]],
    ids=" ".join,
)
@pytest.mark.parametrize("memory", ["ask", "auto"])
def test_inside_of_namespaces(ram, memory, options):
    inside = unshare(*options)
    runner = Runner(ENGINE, f"--memory={memory}")

    done = subprocess.run(
        [*inside, *runner.line(ram, "{group}", "{bdf}", MIB)],
        capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    assert (done.returncode, kinds(done.stdout)) == (0, ALL), done.stderr


@pytest.mark.parametrize(
    "options",
    [["-pf"], ["-pf", "--mount-proc"], ["-Ur"], ["-Urpf", "--mount-proc"]],
    ids=" ".join,
)
@pytest.mark.parametrize("memory", ["ask", "auto"])
def test_a_program_in_namespaces_of_its_own(ram, memory, options):
    """The daemon is outside, the program inside: its pid is another one there, and so may be its /proc."""
    inside = unshare(*options)

    assert kinds(Runner(ENGINE, f"--memory={memory}").output(*inside, ram, "{group}", "{bdf}", MIB)) == ALL


@pytest.mark.parametrize("shm", ["mount -t tmpfs -o ro none /dev/shm", "mount --bind /proc/self/ns /dev/shm"])
@pytest.mark.parametrize("memory", ["ask", "auto"])
def test_without_a_dev_shm(ram, memory, shm):
    inside = unshare("-Urm")
    line = Runner(ENGINE, f"--memory={memory}").line(ram, "{group}", "{bdf}", MIB)

    done = subprocess.run(
        [*inside, "sh", "-c", f'{shm} && shift 0 && exec "$@"', "sh", *line],
        capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    if "mount" in done.stderr and not done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert (done.returncode, kinds(done.stdout)) == (0, ALL), done.stderr


# --- locked memory ---


@pytest.mark.parametrize("memory", sampled(["ask", "process_vm"]))
@pytest.mark.parametrize("limit", sampled(["client", "64KiB", "65536"]))
def test_locked_memory_is_accounted_on_demand_and_devices_memory_is_not(ram, memory, limit):
    runner = Runner(ENGINE, f"--memory={memory}", f"--memlock={limit}")

    refused = {"private": "ENOMEM", "anonymous": "ENOMEM", "memfd": "ENOMEM", "copied": "ENOMEM", "bar": "ok"}
    assert kinds(runner.output(ram, "{group}", "{bdf}", MIB)) == refused
    assert kinds(runner.output(ram, "{group}", "{bdf}", 65536)) == ALL


@pytest.mark.slow
def test_the_trace_says_once_that_linux_would_have_refused(ram, tmp_path):
    trace = tmp_path / "trace"
    runner = Runner(ENGINE, f"--trace={trace}", "--trace-format=json")

    assert kinds(runner.output(ram, "{group}", "{bdf}", MIB)) == ALL
    remarks = [
        event for event in map(json.loads, trace.read_text().splitlines()) if event["event"] == "remark"
    ]
    assert [remark["about"] for remark in remarks] == ["memlock"]
    assert "ENOMEM from Linux" in remarks[0]["text"]
    assert "RLIMIT_MEMLOCK (ulimit -l) is 65536" in remarks[0]["text"]

    runner.output(ram, "{group}", "{bdf}", 65536)
    assert not [line for line in trace.read_text().splitlines() if '"remark"' in line]


@pytest.mark.parametrize("value", ["some", "-1", "1x", ""])
def test_a_limit_that_is_none_is_a_usage_error(run, value):
    done = run("true", options=[ENGINE, f"--memlock={value}"])

    assert done.returncode == 2
    assert "neither off, nor client, nor a size" in done.stderr
