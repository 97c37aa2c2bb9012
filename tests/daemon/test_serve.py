# SPDX-License-Identifier: MIT
"""`vfioemu serve` as a process: ready, signals, restart after kill -9, exit codes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MACHINE = """
[[group]]
number = 12
[[group.device]]
symbol = "mb0"
name = "00000000-0000-4000-8000-000000000001"
model = "oracle"
[group.device.options]
variant = "basic"
"""


def vfioemu(*words):
    return [sys.executable, "-P", "-m", "vfioemu.cli.main", *map(str, words)]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="vfioemu-") as name:
        (Path(name) / "m.toml").write_text(MACHINE)
        yield Path(name)


class Served:
    """A daemon process that is ready."""

    def __init__(self, folder, *options, env=None):
        ready, theirs = os.pipe()
        self.directory = folder / "run"
        self.process = subprocess.Popen(
            vfioemu(
                "serve",
                "-m",
                folder / "m.toml",
                "--runtime-dir",
                self.directory,
                "--ready-fd",
                theirs,
                "--exit-with-parent",
                *options,
            ),
            pass_fds=[theirs],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        os.close(theirs)
        with os.fdopen(ready) as pipe:
            self.path = pipe.readline().strip()

    def end(self, number):
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def run(*words):
    done = subprocess.run(vfioemu(*words), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_and_clean_end(folder, number):
    served = Served(folder)
    assert served.path == f"{served.directory}/vfio.sock"
    assert (served.directory / "pid").read_text().strip() == str(served.process.pid)
    status, errors = served.end(number)
    assert status == 128 + number
    assert "ready: " in errors
    assert "Traceback" not in errors
    assert [path.name for path in served.directory.iterdir()] == ["lock"]


def test_notify_socket(folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(os.fspath(folder / "notify"))
        served = Served(folder, env={"NOTIFY_SOCKET": os.fspath(folder / "notify")})
        assert notify.recv(1000) == f"READY=1\nMAINPID={served.process.pid}\n".encode()
        served.end(signal.SIGTERM)


def test_second_daemon_is_refused_and_restart_after_kill_works(folder):
    served = Served(folder)
    status, _, errors = run("serve", "-m", folder / "m.toml", "--runtime-dir", served.directory)
    assert status == 1
    assert f"pid {served.process.pid}" in errors
    assert "\n  hint: " in errors
    assert served.end(signal.SIGKILL)[0] == -9
    assert (served.directory / "vfio.sock").exists()
    again = Served(folder)
    assert again.end(signal.SIGTERM)[0] == 143


def test_exit_with_parent_ends_whatever_became_of_the_parent(folder):
    """The parent is killed: nobody is left to send a signal. The pipe's end is the daemon's end."""
    ready, theirs = os.pipe()
    words = vfioemu("serve", "-m", folder / "m.toml", "--runtime-dir", folder / "run", "--exit-with-parent")
    starter = (
        f"import subprocess; subprocess.run({[*words, '--ready-fd', str(theirs)]!r}, pass_fds=[{theirs}])"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter], pass_fds=[theirs], stderr=subprocess.PIPE)
    os.close(theirs)
    with os.fdopen(ready) as pipe:
        assert pipe.readline().strip() == f"{folder}/run/vfio.sock"
    parent.kill()
    _, errors = parent.communicate(timeout=20)  # until the last holder of stderr, the daemon, has closed it
    assert b"the parent process is gone" in errors
    assert [path.name for path in (folder / "run").iterdir()] == ["lock"]


def test_mdev_and_stats_commands(folder):
    served = Served(folder)
    where = ("--runtime-dir", served.directory)
    status, out, _ = run("mdev", "types", *where)
    assert status == 0
    assert "oracle" in out
    status, out, _ = run("mdev", "start", "-t", "oracle", "-o", "variant=basic", *where)
    assert status == 0
    uuid, node = out.split()
    assert node.startswith("/dev/vfio/")
    assert (served.directory / "root" / node[1:]).exists()
    status, out, _ = run("mdev", "list", *where)
    assert out == f"{uuid} oracle {node} idle\n"
    assert run("mdev", "stop", "-u", uuid, *where)[0] == 0
    status, _, errors = run("mdev", "stop", "-u", uuid, *where)
    assert status == 1
    assert errors.startswith("vfioemu: error: the daemon refuses mdev-stop: ")
    assert "sessions: 0" in run("stats", *where)[1]
    assert "# TYPE vfioemu_sessions gauge" in run("stats", "--prometheus", *where)[1]
    assert '"sessions": 0' in run("stats", "--json", *where)[1]
    served.end(signal.SIGTERM)


def test_usage_and_configuration_errors(folder):
    both = ["serve", "--private", "--runtime-dir", folder, "-d", "mtty"]
    for words in (
        both,
        ["serve"],
        ["nothing"],
        ["serve", "-m", folder / "none.toml"],
        ["serve", "--memory", "x"],
    ):
        status, out, errors = run(*words)
        assert status == 2, words
        assert out == ""
        assert errors.startswith("vfioemu: error: ")
    (folder / "bad.toml").write_text(MACHINE.replace('"oracle"', '"none"'))
    status, _, errors = run("serve", "-m", folder / "bad.toml", "--runtime-dir", folder / "run")
    assert status == 2
    assert "'none'" in errors
    status, _, errors = run("stats", "--runtime-dir", folder / "nowhere")
    assert status == 1
    assert f"no daemon runs in {folder}/nowhere: No such file" in errors
    assert f"  hint: `vfioemu serve --runtime-dir {folder}/nowhere --device MODEL --background`" in errors


TWO_SERIAL_PORTS = """[[group]]
number = 1
device = [{{symbol = "a", name = "00000000-0000-4000-8000-000000000001", model = "mtty"}}]
[[group]]
number = 2
[[group.device]]
symbol = "b"
name = "00000000-0000-4000-8000-000000000002"
model = "mtty"
[group.device.options]
{options}
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("ports = 3", "bad.toml:11: group[1].device[0].options.ports: 1 or 2, not 3"),
        ('\nmigration = "v3"', "bad.toml:12: group[1].device[0].options.migration: 'v1', 'v2' or 'none'"),
    ],
)
def test_options_that_a_model_refuses_are_told_with_their_line(folder, options, says):
    (folder / "bad.toml").write_text(TWO_SERIAL_PORTS.format(options=options))
    status, _, errors = run("serve", "-m", folder / "bad.toml", "--private")
    assert status == 2
    assert says in errors


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["serve", "--device"], "serve"),
        (["-q", "serve", "-d", "mtty", "--runtime-dir"], "serve"),
        (["mdev", "start", "--type"], "mdev start"),
        (["mdev", "start"], "mdev start"),
        (["decode", "--nothing"], "decode"),
    ],
)
def test_hint_names_the_command_that_was_typed(words, command):
    status, _, errors = run(*words)
    assert status == 2
    assert f"  hint: see `vfioemu {command} --help`" in errors


def test_version_is_quick_and_without_trio():
    code = (
        "import sys\nfrom vfioemu.cli.main import main\nsys.argv[1:] = ['--version']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'trio' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vfioemu ")


def test_help_lists_every_command_without_importing_one():
    status, out, _ = run("--help")
    assert status == 0
    for command in ("conformance", "mdev", "migrate", "serve", "stats"):
        assert f"\n  {command} " in out
    assert "Exit status" in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve", ["--machine", "--device", "--background", "--instance", "--runtime-dir"]),
        ("migrate", ["--guest", "--ram", "--downtime", "--bandwidth", "--wait"]),
        ("incoming", ["--guest", "--ram", "--verify", "--stay"]),
        ("run", ["--device", "--machine", "--connect", "--trace"]),
    ],
)
def test_what_most_people_need_is_on_the_first_screen_of_help(command, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(command, "--help")
    assert status == 0
    screen = "\n".join(out.splitlines()[:24])
    assert [word for word in words if word not in screen] == []
