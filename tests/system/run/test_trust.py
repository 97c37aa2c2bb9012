# SPDX-License-Identifier: MIT
"""Whom a program, and the Python client, talk to: nobody else's daemon gets a byte, and nobody else's files are shown."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.run.helpers import HERE, PATIENCE, preloaded
from tests.users import STRANGER, Listener, as_user, need_two_users
from vfioemu import client, control_client, preload, starting, trust
from vfioemu.cli import run, stats, stop
from vfioemu.cli.errors import CommandError
from vfioemu.testing.daemon import daemon_process, machine_of

ROOT = HERE.parents[2]
OPEN = (
    "import os\n"
    "try: print('fd', os.close(os.open('/dev/vfio/vfio', os.O_RDWR)))\n"
    "except OSError as e: print(e.strerror)\n"
)
UNSHARES = [["unshare", "-U"], ["unshare", "-Ur"], ["unshare", "-Ur", "unshare", "-Ur"]]


def opened(environment, *before, python=sys.executable):
    """What a program says that opens a container with the library; before it, programs that start it."""
    return subprocess.run(
        [*before, python, "-c", OPEN],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )


def need_user_namespaces():
    if subprocess.run(["unshare", "-U", "true"], check=False, capture_output=True).returncode:
        pytest.skip("the system makes no user namespaces for us")


@pytest.fixture
def squat(common):
    """A directory that a stranger has made, in whose socket he listens."""
    need_two_users()
    directory = common / "vfioemu"
    as_user(STRANGER, directory.mkdir)
    with Listener(STRANGER, directory / "vfio.sock") as listener:
        listener.directory = directory
        yield listener


class TestLibrary:
    def test_a_stranger_hears_nothing(self, squat):
        done = opened({**preloaded(squat.directory)})
        assert done.stdout == "No such device\n"
        assert squat.heard() == 0
        assert "not a daemon of uid 0 that listens there" in done.stderr
        assert done.stderr.count("VFIOEMU_SOCKET") == 1  # said once

    @pytest.mark.parametrize(
        "named",
        [
            *(None, str(STRANGER + 1), str(STRANGER + (1 << 32)), "4294967295", "", "0x0"),
            *("-1", "1 ", "root", "0:", "0:x", "9" * 60),
        ],
    )
    def test_nor_does_he_whoever_else_is_named(self, squat, named):
        environment = preloaded(squat.directory)
        del environment["VFIOEMU_UID"]
        if named is not None:
            environment["VFIOEMU_UID"] = named
        assert opened(environment).stdout == "No such device\n"
        assert squat.heard() == 0

    def test_he_does_if_he_is_named(self, squat):
        assert (
            opened({**preloaded(squat.directory), "VFIOEMU_UID": str(STRANGER)}).stdout == "No such device\n"
        )
        assert squat.heard() > 0

    @pytest.mark.parametrize("before", UNSHARES)
    def test_nor_does_he_in_a_user_namespace(self, squat, before):
        """There he has the same number as we: that of those who have none."""
        need_user_namespaces()
        for user in (trust.own(), None):
            environment = preloaded(squat.directory)
            del environment["VFIOEMU_UID"]
            if user is not None:
                environment["VFIOEMU_UID"] = str(user)
            assert opened(environment, *before).stdout == "No such device\n"
            assert squat.heard() == 0

    @pytest.mark.parametrize("before", [[], *UNSHARES])
    def test_our_own_daemon_is_found_in_a_user_namespace(self, run, before):
        need_user_namespaces()
        done = run(*before, sys.executable, "-c", OPEN, options=["--device=mtty"])
        assert (done.stdout, done.returncode) == ("fd None\n", 0), done.stderr

    def test_our_own_daemon_is_found_after_the_environment_was_cleaned(self, run):
        done = run("env", "-i", sys.executable, "-c", OPEN, options=["--device=mtty"])
        assert (done.stdout, done.returncode) == ("fd None\n", 0), done.stderr

    def test_a_program_of_another_user_says_whose_daemon_it_trusts(self, open_folder):
        need_two_users()
        with daemon_process(machine_of([4]), "--allow-uid", str(STRANGER), folder=open_folder) as daemon:
            environment = preloaded(daemon.directory)
            his = functools.partial(opened, python="/usr/bin/python3")  # which everybody can run
            assert as_user(STRANGER, his, environment).stdout == "fd None\n"
            del environment["VFIOEMU_UID"]
            done = as_user(STRANGER, his, environment)
            assert done.stdout == "No such device\n"
            assert f"not a daemon of uid {STRANGER} that listens there" in done.stderr


LOOK = "import os\ntry: print(os.listdir('/sys/bus/mdev/devices'))\nexcept OSError as e: print(e.strerror)\n"
WAIT_AND_LOOK = f"print(flush=True); input(); exec({LOOK!r})"


def tree(root):
    (root / "sys" / "bus" / "mdev" / "devices" / "planted").mkdir(parents=True)
    root.chmod(0o755)


class TestRoot:
    def looked(self, directory):
        environment = {**os.environ, **preloaded(directory)}
        line = [sys.executable, "-c", LOOK]
        return subprocess.run(
            line, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def test_one_of_our_own_is_shown(self, common):
        tree(common / "root")
        done = self.looked(common)
        assert "planted" in done.stdout
        assert done.stderr == ""

    def test_one_of_a_stranger_is_not_and_that_is_said(self, common):
        need_two_users()
        as_user(STRANGER, tree, common / "root")
        done = self.looked(common)
        assert "planted" not in done.stdout
        assert done.stderr.count(f"root is not used: it is of uid {STRANGER}") == 1

    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
    def test_one_that_others_can_write_is_not(self, common, mode):
        tree(common / "root")
        (common / "root").chmod(mode)
        done = self.looked(common)
        assert "planted" not in done.stdout
        assert "root is not used" in done.stderr

    def test_a_link_is_not(self, common):
        tree(common / "real")
        (common / "root").symlink_to("real")
        assert "planted" not in self.looked(common).stdout

    def test_one_that_was_made_again_while_the_program_ran_is_not(self, common):
        need_two_users()
        (common / "root").mkdir()
        environment = {**os.environ, **preloaded(common)}
        line = [sys.executable, "-c", WAIT_AND_LOOK]
        with subprocess.Popen(line, env=environment, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout.readline() == "\n"
            (common / "root").rmdir()
            as_user(STRANGER, tree, common / "root")
            said, complaint = process.communicate("\n", timeout=PATIENCE)
        assert "planted" not in said
        assert f"it is of uid {STRANGER}" in complaint

    def test_no_node_of_a_strangers_tree_is_taken_for_ours(self, common):
        """Nor one of the machine's own."""
        need_two_users()
        (common / "root").mkdir()
        as_user(STRANGER, tree, common / "other")
        as_user(STRANGER, (common / "other" / "dev").mkdir)
        code = """
import os
os.stat('/dev/vfio'), print(flush=True), input()
for call in (os.stat, os.access, os.chmod, os.unlink):
    try: print(call.__name__, call('/dev/vfio/vfio', *([0] if call in (os.access, os.chmod) else [])))
    except OSError as e: print(call.__name__, e.strerror)
"""
        (common / "root" / "dev" / "vfio").mkdir(parents=True)
        (common / "root" / "dev" / "vfio" / "vfio").touch()
        environment = {**os.environ, **preloaded(common)}
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=-1, stdout=-1, stderr=-1, text=True
        ) as process:
            assert process.stdout.readline() == "\n"
            (common / "root").rename(common / "gone")
            said, _ = process.communicate("\n", timeout=PATIENCE)
        assert said.splitlines() == [
            "stat No such file or directory",
            "access False",
            "chmod No such file or directory",
            "unlink No such file or directory",
        ]


class TestPython:
    async def test_a_stranger_hears_nothing(self, squat):
        with pytest.raises(
            trust.StrangerError, match=f"a process of uid {STRANGER} .* not of uid 0; VFIOEMU_UID"
        ):
            async with client.connect(squat.path):
                pass
        assert squat.heard() == 0

    async def test_he_does_if_he_is_named(self, squat, monkeypatch):
        with pytest.raises(client.DaemonGone):
            async with client.connect(squat.path, uid=STRANGER):
                pass
        assert squat.heard() > 0
        monkeypatch.setenv("VFIOEMU_UID", str(STRANGER))
        with pytest.raises(client.DaemonGone):
            async with client.connect(squat.path):
                pass
        assert squat.heard() > 0

    @pytest.mark.parametrize(
        "named", ["", "0x0", "root", "0:", ":1", "0:x", str(1 << 32), "٣", "9" * 5000, "0:" + "9" * 5000]
    )
    async def test_nobody_is_trusted_if_it_is_no_uid(self, squat, monkeypatch, named):
        monkeypatch.setenv("VFIOEMU_UID", named)
        with pytest.raises(trust.StrangerError, match="is not UID"):
            async with client.connect(squat.path):
                pass
        assert squat.heard() == 0

    @pytest.mark.usefixtures("two_users")
    async def test_nor_is_he_asked_what_devices_there_are(self, common):
        with Listener(STRANGER, common / "control.sock", socket.SOCK_STREAM) as listener:
            with pytest.raises(trust.StrangerError):
                control_client.ControlSocket(listener.path)
            assert listener.heard() == 0
            with pytest.raises(trust.StrangerError):
                async with client.control(listener.path):
                    pass
            assert listener.heard() == 0

    def test_commands_say_so(self, common):
        need_two_users()
        with Listener(STRANGER, common / "control.sock", socket.SOCK_STREAM):
            line = [sys.executable, "-m", "vfioemu.cli.main", "stats", "--runtime-dir", common]
            done = subprocess.run(
                line, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT
            )
        assert done.returncode == 1
        assert (
            f"control.sock: it is a process of uid {STRANGER} that listens there, not of uid 0" in done.stderr
        )
        assert "is the daemon running" not in done.stderr

    @pytest.mark.parametrize("command", [stop.command, stats.command, run.command], ids=lambda c: c.name)
    def test_a_daemon_that_is_out_of_reach_is_not_said_to_be_none(self, common, command):
        need_two_users()
        directory = common / "closed"
        directory.mkdir(0o700)
        (directory / "vfio.sock").touch()
        words = ["--connect", directory, "true"] if command is run.command else ["--runtime-dir", directory]

        def refused():
            try:
                command.main([str(word) for word in words], standalone_mode=False)
            except CommandError as error:
                return error.message, error.hint
            return "", ""

        message, hint = as_user(STRANGER, refused)
        assert message == f"cannot connect to {directory}/control.sock: Permission denied"
        assert hint.startswith("the daemon belongs to another user")


class TestNamespaces:
    """What a number stands for in a user namespace (vfioemu/trust.py, csrc/preload/trust.c)."""

    CHECK = (
        "import socket, sys; from vfioemu import trust\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:\n"
        "    s.connect(sys.argv[1])\n"
        "    try: trust.check(s, sys.argv[1]); print('trusted')\n"
        "    except trust.StrangerError as e: print(e.strerror)\n"
    )

    def checked(self, path, before, environment):
        line = [*before, sys.executable, "-c", self.CHECK, path]
        environment = {**os.environ, **environment}
        return subprocess.run(
            line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
        ).stdout

    @pytest.mark.parametrize("before", UNSHARES)
    def test_our_own(self, before):
        need_user_namespaces()
        with daemon_process(machine_of([4])) as daemon:
            for environment in ({}, {"VFIOEMU_UID": str(trust.own())}):
                assert self.checked(daemon.socket_path, before, environment) == "trusted\n"

    @pytest.mark.parametrize("before", UNSHARES)
    def test_a_strangers(self, squat, before):
        need_user_namespaces()
        for environment in ({}, {"VFIOEMU_UID": str(trust.own())}):
            assert "trusted\n" not in self.checked(squat.path, before, environment)

    def test_those_without_a_number_are_trusted_if_their_number_is_named(self, squat):
        need_user_namespaces()
        overflow = Path("/proc/sys/kernel/overflowuid").read_text().strip()
        for before in (["unshare", "-U"], ["unshare", "-Ur"]):
            assert self.checked(squat.path, before, {"VFIOEMU_UID": overflow}) == "trusted\n"


def test_no_link_is_preloaded_that_others_could_replace(common):
    """`--connect` to a daemon in a directory that has become anybody's."""
    (common / "wide").mkdir()
    with daemon_process(machine_of([4]), folder=common / "wide") as daemon:
        (common / "wide").chmod(0o777)
        code = "import os; print(os.environ['LD_PRELOAD'])"
        line = starting.command("run", "--connect", daemon.directory, "--", sys.executable, "-c", code)
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stdout.split(":")[0].strip() == os.fspath(preload.library()), done.stderr
        (common / "wide").chmod(0o755)
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
        link = daemon.directory / preload.NAME
        assert done.stdout.split(":")[0].strip() == os.fspath(link), done.stderr


def test_the_link_that_is_preloaded_is_in_nobody_elses_reach(run):
    done = run(sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])", options=["--device=mtty"])
    link = Path(done.stdout.split(":")[0].strip())
    assert link.name == preload.NAME
    base = link.parents[1]
    assert (base.stat().st_uid, base.stat().st_mode & 0o777) == (os.getuid(), 0o700)
    assert not link.parent.exists()  # and there nobody can make it again
