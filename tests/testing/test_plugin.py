# SPDX-License-Identifier: MIT
"""The pytest plugin in projects of somebody else: it helps where it is asked, and nowhere else."""

import json
import re

import pytest

from tests.testing.test_documented import run, there_is_a_preload_library

needs_preload = pytest.mark.skipif(
    not there_is_a_preload_library(), reason="the preload library is not built"
)
PROGRAM = """
import sys, fcntl, os
fcntl.ioctl(os.open("/dev/vfio/vfio", os.O_RDWR), 0x3b66, 3)  # VFIO_SET_IOMMU without a group
"""


def project(folder, text):
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "test_it.py").write_text(text)


def test_unrelated_tests_are_left_alone(tmp_path):
    project(
        tmp_path,
        """
import sys

def test_nothing_of_vfioemu_is_imported_but_the_plugin():
    ours = {name for name in sys.modules if name.startswith("vfioemu")}
    assert ours == {"vfioemu", "vfioemu.testing", "vfioemu.testing.pytest_plugin"}
""",
    )

    done = run(tmp_path, "test_it.py", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout


@needs_preload
def test_failure_shows_the_last_calls_and_nothing_is_left(tmp_path):
    project(
        tmp_path,
        """
import sys

def test_it(vfioemu):
    vfioemu.device("vfio-pci")
    done = vfioemu.run([sys.executable, "program.py"])
    print("folder", vfioemu.folder)
    assert done.returncode == 0
""",
    )

    done = run(tmp_path, "test_it.py", f"--vfioemu-trace={tmp_path}/trace.jsonl")

    assert done.returncode == 1
    assert "vfioemu: the last calls" in done.stdout
    assert re.search(
        r"^ioctl\(\S+<container>, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU\) = -1 EINVAL \(.*\) /\* .* \*/$",
        done.stdout,
        re.MULTILINE,
    )
    events = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [event["errno"] for event in events if event.get("ioctl") == "VFIO_SET_IOMMU"] == ["EINVAL"]
    found = re.search(r"folder (\S+)", done.stdout)
    assert found
    assert not (tmp_path / found[1]).exists()


@pytest.mark.slow
@needs_preload
def test_the_trace_file_has_the_calls_of_all_instances_and_each_instance_its_own(tmp_path):
    project(
        tmp_path,
        """
import sys

import pytest

@pytest.mark.parametrize("turn", range(2))
def test_it(vfioemu, vfioemu_session, turn):
    for instance in (vfioemu, vfioemu_session):
        if instance is vfioemu or not turn:
            instance.device("vfio-pci")
        instance.run([sys.executable, "program.py"])
    assert len(vfioemu.trace.errors) == 1
    assert len(vfioemu_session.trace.errors) == turn + 1
""",
    )

    done = run(tmp_path, "test_it.py", f"--vfioemu-trace={tmp_path}/trace.jsonl")

    assert done.returncode == 0, done.stdout
    events = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [event["errno"] for event in events if event.get("ioctl") == "VFIO_SET_IOMMU"] == ["EINVAL"] * 4


@pytest.mark.slow
@needs_preload
def test_one_instance_serves_a_session(tmp_path):
    project(
        tmp_path,
        """
import sys

import pytest

@pytest.fixture(scope="session")
def functions(vfioemu_session):
    return [vfioemu_session.device("vfio-pci"), vfioemu_session.device("mtty", ports=1)]

@pytest.mark.parametrize("turn", range(3))
def test_it(functions, vfioemu_session, turn):
    assert functions[0].bdf.endswith(":00:01.0")
    assert functions[1].name != functions[0].name
    vfioemu_session.run([sys.executable, "program.py"])
    assert len(vfioemu_session.trace.errors) == turn + 1
    with pytest.raises(RuntimeError, match="before the first program"):
        vfioemu_session.device("edu")
""",
    )

    done = run(tmp_path, "test_it.py")

    assert done.returncode == 0, done.stdout


def test_what_is_missing_skips_with_the_reason(tmp_path):
    project(
        tmp_path,
        """
import pytest

@pytest.mark.vfioemu_requires("no-such-program")
def test_it():
    raise AssertionError
""",
    )

    done = run(tmp_path, "test_it.py", "-rs")

    assert done.returncode == 0
    assert "no-such-program is not installed" in done.stdout


def test_plugin_says_what_it_offers(tmp_path):
    project(tmp_path, "")

    markers, fixtures = run(tmp_path, "--markers").stdout, run(tmp_path, "--fixtures").stdout

    assert "vfioemu_requires(*programs)" in markers
    for name in ("vfioemu", "vfioemu_session", "vfioemu_trio", "vfioemu_qemu"):
        assert re.search(rf"^{name}\b", fixtures, re.MULTILINE), name
    assert "--vfioemu-keep" in run(tmp_path, "--help").stdout
