# SPDX-License-Identifier: MIT
"""Programs whose environment was cleaned on the way: they find their daemon all the same."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.system.run.helpers import HERE, Runner, compile_c
from vfioemu import preload

SEE = "stat -c %a /dev/vfio/23"
CLEANERS = {
    "env -i": f"env -i PATH=$PATH {SEE}",
    "env -u": f"env -u VFIOEMU_SOCKET -u VFIOEMU_ROOT -u LD_PRELOAD {SEE}",
    "only the daemon is forgotten": f"env -u VFIOEMU_SOCKET -u VFIOEMU_ROOT {SEE}",
    "unset": f"unset LD_PRELOAD VFIOEMU_SOCKET VFIOEMU_ROOT; exec {SEE}",
    "twice": f"env -i PATH=$PATH env -i {SEE}",
}
EXECUTE = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
words = [b"stat", b"-c", b"%a", b"/dev/vfio/23"]
path = sys.argv[2].encode()
array = (ctypes.c_char_p * 5)(*words, None)
empty = (ctypes.c_char_p * 1)(None)
how = sys.argv[1]
sys.stdout.flush()
if how == "execve":
    libc.execve(path, array, empty)
elif how == "execve without an environment":
    libc.execve(path, array, None)
elif how == "execvpe":
    libc.execvpe(b"stat", array, empty)
elif how == "execle":
    libc.execle(path, *words, None, empty)
elif how == "fexecve":
    libc.fexecve(os.open(path, os.O_RDONLY), array, empty)
elif how == "execveat":
    libc.execveat(-100, path, array, empty, 0)
elif how.startswith("posix_spawn"):
    pid = ctypes.c_int()
    name = path if how == "posix_spawn" else b"stat"
    assert not getattr(libc, how)(ctypes.byref(pid), name, None, None, array, empty)
    os.waitpid(pid.value, 0)
else:
    libc.clearenv()
    os.putenv("PATH", os.path.dirname(sys.argv[2]))
    {"execv": lambda: libc.execv(path, array), "execvp": lambda: libc.execvp(b"stat", array),
     "execl": lambda: libc.execl(path, *words, None), "execlp": lambda: libc.execlp(b"stat", *words, None)}[how]()
"""


@pytest.mark.parametrize("cleaner", CLEANERS)
def test_a_cleaned_environment(connected, cleaner):
    assert connected.output("sh", "-c", CLEANERS[cleaner]) == "600\n"


@pytest.mark.parametrize(
    "how",
    [
        "execve",
        "execve without an environment",
        "execvpe",
        "execle",
        "fexecve",
        "execveat",
        "posix_spawn",
        "posix_spawnp",
        "execv",
        "execvp",
        "execl",
        "execlp",
    ],
)
def test_every_way_to_execute(connected, how):
    assert connected.output(sys.executable, "-c", EXECUTE, how, shutil.which("stat")) == "600\n"


@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: the library is not loaded into a sudo that is setuid"
)
@pytest.mark.skipif(not shutil.which("sudo"), reason="there is no sudo")
@pytest.mark.parametrize("options", ["", "-E"])
def test_sudo_of_root(connected, options):
    """It takes LD_PRELOAD out whatever it is told, and all else but for -E."""
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("sudo does nothing for us here")
    assert connected.output("sh", "-c", f"sudo -n {options} {SEE}") == "600\n"


def test_who_does_not_want_it_says_so(connected):
    """An empty variable is a decision; the real /dev/vfio may be there or not."""
    for name in ("LD_PRELOAD", "VFIOEMU_SOCKET"):
        seen = connected.output("sh", "-c", f"{name}= sh -c 'ls /dev/vfio 2>/dev/null || :'")
        assert "23" not in seen.split()


def test_the_environment_gets_nothing_that_it_need_not_have(connected):
    """The library knows by its own place what else the variables say."""
    names = {line.partition("=")[0] for line in connected.output("env", "-i", "A=1", "env").splitlines()}
    assert names == {"A", "LD_PRELOAD"}


def test_a_library_elsewhere_is_told_where_the_daemon_is(daemon):
    """As whoever sets LD_PRELOAD by hand has it."""
    environment = {
        "PATH": os.environ["PATH"],
        "LD_PRELOAD": str(preload.library()),
        "VFIOEMU_SOCKET": str(daemon.directory / "vfio.sock"),
        "VFIOEMU_ROOT": str(daemon.directory / "root"),
    }
    done = subprocess.run(
        ["sh", "-c", CLEANERS["env -i"]], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "600\n"


@pytest.mark.parametrize("socket", ["own", "other"])
def test_another_daemons_socket_comes_with_no_tree_of_ours(daemon, tmp_path, socket):
    """Programs would look for one daemon's devices, and talk to another."""
    own = str(daemon.directory / "vfio.sock")
    named = own if socket == "own" else str(tmp_path / "vfio.sock")
    env = {
        **os.environ,
        "LD_PRELOAD": str(preload.library()),
        "VFIOEMU_SOCKET": own,
        "VFIOEMU_ROOT": str(daemon.directory / "root"),
    }
    code = f"import os; os.execve('/usr/bin/env', ['env'], {{'VFIOEMU_SOCKET': {named!r}}})"
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    found = dict(line.split("=", 1) for line in out.stdout.splitlines())
    assert (found["VFIOEMU_SOCKET"], "LD_PRELOAD" in found) == (named, True)
    assert ("VFIOEMU_ROOT" in found) == (socket == "own")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a directory of somebody else's")
def test_a_daemon_of_somebody_else_is_not_found_by_its_place(daemon, tmp_path):
    """What lies beside the library is used if nobody else could have put it there."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("vfio.sock", "root"):
        (theirs / name).symlink_to(daemon.directory / name)
    (theirs / "library.so").symlink_to(preload.library())
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(theirs / "library.so")}
    done = subprocess.run(["sh", "-c", SEE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout != "600\n"  # a link is no socket of ours
    os.chmod(daemon.directory, 0o777)
    try:
        link = daemon.directory / preload.library().name
        if not link.is_symlink():
            link.symlink_to(preload.library())
        environment["LD_PRELOAD"] = str(link)
        done = subprocess.run(["sh", "-c", SEE], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout != "600\n"
    finally:
        os.chmod(daemon.directory, 0o700)
    done = subprocess.run(["sh", "-c", SEE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "600\n"


def test_programs_that_are_left_running_can_execute_others(tmp_path):
    """When the daemon is gone, so is the link; the dynamic linker would complain at each exec()."""
    out, gate = tmp_path / "out", tmp_path / "gate"
    os.mkfifo(out)
    os.mkfifo(gate)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    script = f"(read line <{gate}; cat /dev/null; echo done; exec cat /dev/null) >{out} 2>&1 & :"
    done = Runner("--device", "mtty")("sh", "-c", script)
    assert done.returncode == 0, done.stderr
    gate.write_text("go\n")
    os.set_blocking(reader, True)
    with open(reader) as pipe:
        assert pipe.read() == "done\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv")
def test_who_becomes_another_user_can_execute_others(connected):
    done = connected("setpriv", "--reuid=4242", "--clear-groups", "sh", "-c", "cat /dev/null; echo done")
    assert done.stdout == "done\n"
    assert "ld.so" not in done.stderr


def test_an_environment_is_looked_at_without_a_system_call_for_each_byte(run, tmp_path):
    done = run(compile_c(HERE / "cheap.c", tmp_path / "cheap"), options=("--device=edu",))
    if done.returncode == 77:
        pytest.skip("there are no seccomp filters")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
