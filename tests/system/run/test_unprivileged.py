# SPDX-License-Identifier: MIT
"""Nobody needs privileges: program, daemon and `vfioemu run` as an ordinary user without capabilities; and where the
system does not let the daemon reach its program's memory, it asks.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.system.run.helpers import CLIENT, HERE, PATIENCE, Runner, compile_c, preloaded
from vfioemu.daemon import real
from vfioemu.testing.daemon import daemon_process, machine_of

ROOT = HERE.parents[2]
DEVICE = "--device=oracle,variant=basic,bus=mdev"
NOBODY = 65534
DROP = "setpriv --reuid {uid} --regid {uid} --clear-groups --bounding-set -all --inh-caps -all --no-new-privs -- sh -c"
ASKED = "it is asked instead"
UNDUMPABLE = f"""
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
sys.argv = ["client.py", *sys.argv[1:]]
runpy.run_path({str(CLIENT)!r})
"""


def as_user(uid, *command, **more):
    """Run a command as that user, without any capability: they are gone with the shell's exec()."""
    libraries = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": libraries, "HOME": "/", **more.pop("env", {})}
    return subprocess.run(
        [*DROP.format(uid=uid).split(), 'exec "$0" "$@"', *map(str, command)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        **more,
    )


@pytest.fixture(scope="module")
def python():
    """A Python that other users can run."""
    if os.geteuid():
        pytest.skip("only root can be somebody else; the other tests are run by an ordinary user already")
    for candidate in (sys.executable, "/usr/bin/python3"):
        if as_user(NOBODY, candidate, "-c", "import vfioemu.cli.main, trio, vfioemu._kernel").returncode == 0:
            return candidate
    pytest.skip("no Python here has what it takes for another user")


class TestOrdinaryUser:
    @pytest.mark.parametrize("memory", ["private", "memfd"])
    def test_everything_without_capabilities(self, python, memory):
        line = [python, "-P", "-m", "vfioemu.cli.main", "run", DEVICE, "--", python, CLIENT, "once", memory]
        done = as_user(NOBODY, *line)
        assert (done.returncode, done.stdout, done.stderr) == (0, '{"ok": true}\n', "")

    def test_a_program_that_cannot_be_looked_into_is_asked(self, python):
        line = [python, "-P", "-m", "vfioemu.cli.main", "run", DEVICE, "--", python, "-c", UNDUMPABLE, "once"]
        done = as_user(NOBODY, *line)
        assert done.stdout == '{"ok": true}\n', done.stderr
        assert done.stderr.count(ASKED) == 1

    def test_the_owner_of_the_machine_does_what_root_does(self, python):
        """Nodes change hands, functions their driver, registers their bits; a mode that forbids it is obeyed."""
        script = """
            chown 107:64055 /dev/vfio/$VFIOEMU_GROUP && chmod 660 /dev/vfio/$VFIOEMU_GROUP && stat -c '%u:%g %a' /dev/vfio/$VFIOEMU_GROUP
            cd $VFIOEMU_SYSFSDEV && stat -c %a config reset ../../drivers_probe 2>/dev/null
            printf '\\007\\000' | dd of=config bs=1 seek=4 conv=notrunc status=none && od -An -tx1 -j4 -N2 config
            cd / && echo $VFIOEMU_BDF >/sys/bus/pci/drivers/vfio-pci/unbind && ls /dev/vfio
            echo $VFIOEMU_BDF >/sys/bus/pci/drivers_probe && ls /dev/vfio
            rm /sys/bus/pci/drivers/vfio-pci/bind 2>&1 | grep -o 'Operation not permitted'
            chmod 0 /dev/vfio/$VFIOEMU_GROUP; (exec 3<>/dev/vfio/$VFIOEMU_GROUP) 2>&1 | grep -o 'Permission denied'
            env -i /bin/ls /dev/vfio
        """
        line = [python, "-P", "-m", "vfioemu.cli.main", "run", "--device=e1000e", "--", "sh", "-c", script]
        done = as_user(NOBODY, *line)
        group = str(real.free_group(()))
        assert done.stdout.split("\n") == [
            "107:64055 660",
            "644",
            "200",
            " 07 00",
            "vfio",
            group,
            "vfio",
            "Operation not permitted",
            "Permission denied",
            group,
            "vfio",
            "",
        ], done.stderr

    @pytest.mark.slow
    def test_without_falling_back_it_is_refused(self, python):
        line = [python, "-P", "-m", "vfioemu.cli.main", "run", DEVICE, "--memory=process_vm", "--", python]
        done = as_user(NOBODY, *line, "-c", UNDUMPABLE, "once")
        assert done.returncode == 1
        assert "its memory cannot be reached" in done.stderr

    def test_two_users_do_not_get_in_each_others_way(self, python):
        script = "import os, subprocess, sys; print(os.environ['VFIOEMU_SOCKET']); sys.stdout.flush()\n"
        script += f"subprocess.run([sys.executable, {str(CLIENT)!r}, 'once'], check=True)"
        line = [python, "-P", "-m", "vfioemu.cli.main", "run", DEVICE, "--", python, "-c", script]
        mine, theirs = as_user(NOBODY, *line), as_user(NOBODY - 1, *line)
        for done in (mine, theirs):
            assert done.stdout.endswith('{"ok": true}\n'), done.stderr
        assert mine.stdout != theirs.stdout

    def test_another_users_daemon_is_out_of_reach(self, python, open_folder):
        code = "import os, sys\ntry: os.open('/dev/vfio/vfio', os.O_RDWR)\nexcept OSError as e: print(e.strerror)"
        with daemon_process(machine_of([4]), folder=open_folder) as daemon:
            done = as_user(NOBODY, python, "-c", code, env=preloaded(daemon.directory))
            assert done.stdout == "No such device\n"
            assert "we are not allowed to use it" in done.stderr

    def test_a_user_who_is_let_in_is_asked(self, python, open_folder):
        """Another uid: the daemon may not look into its memory, whatever it would like."""
        options = ["--allow-uid", str(NOBODY), "--memory", "auto"]
        with daemon_process(machine_of([4]), *options, folder=open_folder) as daemon:
            environment = {
                **preloaded(daemon.directory),
                "VFIOEMU_GROUP": "4",
                "VFIOEMU_SYSFSDEV": "/sys/bus/mdev/devices/00000000-0000-4000-8000-000000000004",
            }
            done = as_user(NOBODY, python, CLIENT, "once", env=environment)
            assert done.stdout == '{"ok": true}\n', done.stderr


class TestRefusedBySeccomp:
    @pytest.fixture
    def refuse(self, tmp_path):
        return compile_c(HERE / "refuse.c", tmp_path / "refuse")

    def line(self, refuse, *options):
        return [refuse, *Runner(*options, DEVICE).line(sys.executable, CLIENT, "once")]

    def test_it_is_asked_and_that_is_said_once(self, refuse):
        done = subprocess.run(
            self.line(refuse), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.stdout == '{"ok": true}\n', done.stderr
        assert done.stderr.count(ASKED) == 1

    @pytest.mark.slow
    def test_sessions_that_follow_are_not_complained_about_again(self, refuse):
        line = self.line(refuse)
        line = [
            *line[: line.index("--") + 1],
            "sh",
            "-c",
            f"for i in 1 2 3; do {sys.executable} {CLIENT} once; done",
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.stdout == '{"ok": true}\n' * 3, done.stderr
        assert done.stderr.count(ASKED) == 1


def test_memory_of_files_is_mapped_and_not_copied(run, tmp_path):
    """Of a memfd and of a file on a disk: the daemon has them mapped while the program has them mapped for DMA."""
    code = f"""
import runpy, subprocess, sys, os
sys.argv = ["client.py", "wait", sys.argv[1]]
os.close(0)
os.open("/dev/null", os.O_RDONLY)
runpy.run_path({str(CLIENT)!r})
import glob
for maps in glob.glob("/proc/[0-9]*/maps"):
    try:
        text = open(maps).read()
        if b"serve" in open(maps.replace("maps", "cmdline"), "rb").read() and os.stat(maps).st_uid == os.getuid():
            if sys.argv[2] in text and int(maps.split("/")[2]) != os.getpid():
                print("mapped")
    except OSError:
        pass
"""
    for kind, name in (("memfd", "memfd:guest"), (str(tmp_path / "ram"), str(tmp_path / "ram"))):
        code_here = code.replace("sys.argv[2] in text", f"{name!r} in text")
        found = run.output(sys.executable, "-c", code_here, kind, options=[DEVICE])
        assert found.splitlines() == ["ready", '{"ok": true}', "mapped"], kind
    assert Path(tmp_path / "ram").read_bytes()[:1] == b"\x08"
