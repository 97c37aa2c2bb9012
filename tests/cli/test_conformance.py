# SPDX-License-Identifier: MIT
"""`vfioemu conformance`: what it prints, how it ends, and the golden traces through a live daemon."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.conformance.golden import HAND_WRITTEN, OTHERS, RANDOM, RECORDED, REQUIRED, USUAL, write_sample
from tests.sample import sampled

PATIENCE = 1700


def conformance(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "vfioemu.cli.main", "conformance", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def count(files) -> int:
    return sum(len(path.read_text().splitlines()) for path in files)


@pytest.mark.parametrize("memory", sampled(["ask", "process_vm"]))
@pytest.mark.parametrize(
    ("families", "of"), [(HAND_WRITTEN, 15), (RANDOM, 60)], ids=["hand-written", "random"]
)
def test_a_sample_passes_through_a_daemon(memory, families, of, tmp_path):
    present = [family for family in families if (USUAL / f"{family}.jsonl").exists()]
    files = write_sample(USUAL, present, tmp_path / "sample", of)

    done = conformance("--socket", "--memory", memory, "-j", 1, *files)

    assert count(files) > 20
    assert (done.stdout.splitlines()[-1], done.returncode) == (f"{count(files)} passed, 0 failed", 0), (
        done.stdout
    )


@pytest.mark.full
@pytest.mark.timeout(PATIENCE + 100)
@pytest.mark.parametrize("memory", ["ask", "process_vm"])
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_everything_passes_through_a_daemon(memory, folder):
    files = [path for family in REQUIRED if (path := folder / f"{family}.jsonl").exists()]

    done = conformance("--socket", "--memory", memory, "-j", 2, *files)

    assert (done.stdout.splitlines()[-1], done.returncode) == (f"{count(files)} passed, 0 failed", 0), (
        done.stdout
    )


@pytest.mark.parametrize("extra", [[], ["--socket"]], ids=["in-process", "socket"])
def test_wrong_trace_fails_and_says_where(tmp_path, extra):
    shutil.copy(USUAL / "_env.json", tmp_path)
    path = tmp_path / "dirty_pins.jsonl"
    lines = (USUAL / "dirty_pins.jsonl").read_text().splitlines()[:3]
    scenario = json.loads(lines[1])
    number, entry = next((n, s["mem"][0]) for n, s in enumerate(scenario["steps"]) if "mem" in s)
    entry["hex"] = f"{int(entry['hex'][0], 16) ^ 1:x}" + entry["hex"][1:]
    path.write_text("\n".join([lines[0], json.dumps(scenario), lines[2]]) + "\n")

    done = conformance(*extra, "-j", 1, path)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "2 passed, 1 failed"
    assert f"dirty_pins/{scenario['name']}: failed" in done.stdout
    assert f"step {number}: c IOMMU_DIRTY_PAGES" in done.stdout
    assert "expected 0x" in done.stdout


def test_several_workers_run_every_scenario_once():
    files = [USUAL / f"{family}.jsonl" for family in ("map", "aw39_map", "unmap")]

    done = conformance("-j", 3, *files)

    assert (done.stdout, done.returncode) == (f"{count(files)} passed, 0 failed\n", 0)


def test_folder_means_all_its_files(tmp_path):
    write_sample(USUAL, ["rand_map", "rand_vaddr"], tmp_path / "sample")

    done = conformance(tmp_path / "sample")

    assert done.returncode == 0
    assert done.stdout == f"{count((tmp_path / 'sample').glob('*.jsonl'))} passed, 0 failed\n"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("{}\n"), "_env.json"),
        (
            lambda path: (shutil.copy(USUAL / "_env.json", path.parent), path.write_text("[\n")),
            "not a scenario",
        ),
        (
            lambda path: ((path.parent / "_env.json").write_text("{}"), path.write_text("")),
            "not an environment",
        ),
    ],
)
def test_unusable_file_is_a_usage_error(tmp_path, make, says):
    path = tmp_path / "traces.jsonl"
    make(path)

    done = conformance(path)

    assert done.returncode == 2
    assert says in done.stderr


def test_nothing_to_replay_is_a_failure(tmp_path):
    shutil.copy(USUAL / "_env.json", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")

    done = conformance(tmp_path / "empty.jsonl")

    assert (done.stdout, done.returncode) == ("0 passed, 0 failed\n", 1)


def test_a_folder_without_traces_is_named(tmp_path):
    done = conformance(tmp_path)

    assert done.returncode == 2
    assert f"{tmp_path}: no trace files (*.jsonl) in this folder" in done.stderr


def test_machine_that_lacks_the_devices_fails_its_scenarios(tmp_path):
    machine = tmp_path / "machine.toml"
    machine.write_text(
        '[[group]]\nnumber = 1\n[[group.device]]\nsymbol = "x"\nname = "00000000-0000-4000-8000-000000000001"\nmodel = "oracle"\n'
    )

    done = conformance("--machine", machine, USUAL / "vaddr.jsonl")

    assert done.returncode == 1
    assert "ENOENT" in done.stdout


def test_traces_of_an_unknown_kernel_need_a_profile(tmp_path):
    shutil.copy(USUAL / "vaddr.jsonl", tmp_path)
    environment = json.loads((USUAL / "_env.json").read_text()) | {"kernel": "5.4.1-generic"}
    (tmp_path / "_env.json").write_text(json.dumps(environment))

    refused = conformance(tmp_path / "vaddr.jsonl")
    told = conformance("--profile", "linux-6.12", tmp_path / "vaddr.jsonl")

    assert (refused.returncode, told.returncode) == (2, 0)
    assert "5.4.1" in refused.stderr


def test_broken_machine_file_is_a_usage_error(tmp_path):
    machine = tmp_path / "machine.toml"
    machine.write_text("[[group]]\n")

    assert conformance("--machine", machine, USUAL / "vaddr.jsonl").returncode == 2


@pytest.mark.parametrize("extra", [[], ["--socket"]], ids=["in-process", "socket"])
def test_a_profile_is_held_against_what_its_own_kernel_answered(tmp_path, extra):
    """The same file alone has the answers of 6.12, which 7.2 does not give."""
    file = USUAL / "map.jsonl"
    for name in (file.name, "_env.json"):
        shutil.copy(USUAL / name, tmp_path)

    alone = conformance("--profile", OTHERS[0].name, "-q", *extra, tmp_path / file.name)
    beside = conformance("--profile", OTHERS[0].name, *extra, file)

    assert "map/wrap-mb0-t1: failed" in alone.stdout
    assert alone.returncode == 1
    assert (beside.stdout.splitlines()[-1], beside.returncode) == (f"{count([file])} passed, 0 failed", 0)
