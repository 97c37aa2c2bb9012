# SPDX-License-Identifier: MIT
"""`vfioemu migrate --resolve` as a process: exit codes and what it prints."""

import json
import os
import subprocess

import pytest

from tests.cli.test_migrate import argv
from vfioemu.migration.files import Folder
from vfioemu.migration.journal import Journal, Role
from vfioemu.migration.records import Record

SOURCE, DESTINATION = [Record.BEGUN, Record.COMMIT], [Record.BEGUN, Record.READY]


def run(*options):
    return subprocess.run(argv("migrate", *options), capture_output=True, text=True, timeout=60, check=False)


def leave(path, role, records):
    log = Journal(Folder(path)).begin(role, "a" * 32, uri=f"unix:{path}/nobody", guest="vm1")
    for record in records[1:]:
        log.write(record)
    log.close()


def test_nothing_in_doubt_is_said_and_no_failure(tmp_path):
    done = run("--resolve", "--state-dir", tmp_path / "s")
    assert (done.returncode, done.stdout, done.stderr) == (0, " nothing is in doubt\n", "")


def test_migration_in_doubt_stays_so_until_somebody_knows(tmp_path):
    leave(tmp_path, Role.SOURCE, SOURCE)
    done = run("--resolve", "--state-dir", tmp_path)
    assert done.returncode == 6
    assert f" vm1 -> unix:{tmp_path}/nobody ({'a' * 32}): NOBODY KNOWS" in done.stdout
    leave(tmp_path, Role.DESTINATION, DESTINATION)
    done = run("--resolve", "--state-dir", tmp_path, "--json")
    assert (done.returncode, done.stderr) == (3, "")
    event = json.loads(done.stdout)
    assert (event["event"], event["fate"], event["guest"]) == ("resolved", "not_moved", "vm1")
    assert run("--resolve", "--state-dir", tmp_path).returncode == 0


@pytest.mark.parametrize("records", [[*DESTINATION, Record.STARTED], [*DESTINATION, Record.REFUSED]])
def test_dead_destination_is_read_from_the_same_directory(records, tmp_path):
    leave(tmp_path, Role.SOURCE, SOURCE)
    leave(tmp_path, Role.DESTINATION, records)
    assert run("--resolve", "--state-dir", tmp_path).returncode == (1 if Record.STARTED in records else 3)


def test_directory_that_others_can_write_is_refused(tmp_path):
    os.chmod(tmp_path, 0o777)
    done = run("--resolve", "--state-dir", tmp_path)
    assert done.returncode == 1
    assert "is open to others (mode 0777)" in done.stderr


def test_uri_is_wanted_for_a_migration():
    done = run()
    assert done.returncode == 2
    assert "Missing argument 'URI'" in done.stderr
