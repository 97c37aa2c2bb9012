# SPDX-License-Identifier: MIT
"""`vfioemu run`: what the program gets, what becomes of it, and what is refused before it is started."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.run.helpers import CLIENT, Runner
from vfioemu import preload
from vfioemu.cli import program
from vfioemu.cli import run as cli
from vfioemu.cli.errors import CommandError
from vfioemu.daemon import real

DEVICE = "--device=oracle,variant=basic,bus=mdev"
ORACLE = (DEVICE,)


def find(*command):
    return program.find(tuple(map(str, command)), preload.library())


def test_a_library_that_was_not_built_is_a_missing_prerequisite(monkeypatch):
    monkeypatch.setattr(preload, "NAME", "not-built.so")
    with pytest.raises(CommandError, match=r"no preload library: .*not-built.so does not exist") as missing:
        cli.command.main([DEVICE, "true"], standalone_mode=False)
    assert missing.value.exit_code == 77


class TestEnvironment:
    def test_tokens_and_variables_name_the_devices(self, run):
        show = 'printf "%s\\n" "$@" "$VFIOEMU_SYSFSDEV" "$VFIOEMU_UUID" "$VFIOEMU_GROUP" "$VFIOEMU_BDF1" "$VFIOEMU_BDF"'
        words = [
            "{sysfsdev}",
            "x={uuid},{group}",
            "{bdf1}",
            "{sysfsdev0}{group1}",
            "{bdf",
            "{x}",
            "{}",
            "{socket}",
        ]
        found = run.output("sh", "-c", show, "sh", *words, options=[DEVICE, "--device=oracle,variant=migspc"])
        uuid = "00000000-0000-4000-8000-000000000001"
        first = real.free_group(())
        assert found.splitlines() == [
            f"/sys/bus/mdev/devices/{uuid}",
            f"x={uuid},{first}",
            f"{real.free_domain()}:00:01.0",
            f"/sys/bus/mdev/devices/{uuid}{real.free_group({first})}",
            "{bdf",
            "{x}",
            "{}",
            "{socket}",
            f"/sys/bus/mdev/devices/{uuid}",
            uuid,
            str(first),
            f"{real.free_domain()}:00:01.0",
            "",
        ]

    def test_preloaded_libraries_are_kept_behind_ours(self, run):
        environment = {**os.environ, "LD_PRELOAD": "/nonexistent/one.so:/nonexistent/two.so"}
        done = run("sh", "-c", "echo $LD_PRELOAD", options=ORACLE, env=environment)
        ours, *others = done.stdout.rstrip("\n").split(":")
        assert Path(ours).name == preload.library().name
        assert others == ["/nonexistent/one.so", "/nonexistent/two.so"]

    def test_fds_directory_and_input_are_the_programs(self, run, tmp_path):
        read_end, write_end = os.pipe()
        os.write(write_end, b"through a pipe")
        os.close(write_end)
        done = run(
            "sh",
            "-c",
            f"cat /proc/self/fd/{read_end}; pwd; cat",
            options=ORACLE,
            pass_fds=[read_end],
            cwd=tmp_path,
            input="typed",
        )
        os.close(read_end)
        assert done.stdout == f"through a pipe{tmp_path}\ntyped"

    def test_signals_are_as_they_were(self, run):
        """Ignored ones stay ignored, those that Python ignores for itself do not; nothing is blocked."""
        status = run.output(
            "cat",
            "/proc/self/status",
            options=ORACLE,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )
        masks = {
            line.split(":")[0]: int(line.split()[1], 16)
            for line in status.splitlines()
            if line.startswith("Sig") and line[3:6] in ("Ign", "Blk")
        }
        assert masks["SigBlk"] == 0
        assert masks["SigIgn"] & 1 << signal.SIGHUP - 1
        assert not masks["SigIgn"] & 1 << signal.SIGPIPE - 1

    def test_a_library_with_a_blank_in_its_path(self, tmp_path):
        folder = tmp_path / "a folder"
        folder.mkdir()
        shutil.copy(preload.library(), folder)
        code = (
            "import pathlib, sys; from vfioemu import preload; from vfioemu.cli.main import main\n"
            f"preload.library = lambda: pathlib.Path({str(folder)!r}) / preload.NAME\n"
            "main()\n"
        )
        line: list[str | Path] = [
            sys.executable,
            "-c",
            code,
            "run",
            DEVICE,
            "--",
            sys.executable,
            CLIENT,
            "once",
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout == '{"ok": true}\n', done.stderr


class TestEnd:
    @pytest.mark.parametrize("status", [0, 255])
    def test_the_exit_status_is_the_programs(self, connected, status):
        assert connected("sh", "-c", f"exit {status}").returncode == status

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
    def test_a_signal_that_ends_the_program_ends_us(self, connected, number):
        assert connected("sh", "-c", f"kill -{number.name[3:]} $$").returncode == -number

    def test_nothing_stays_behind(self, run):
        socket_path = run.output(
            "sh", "-c", "echo $VFIOEMU_SOCKET; test -S $VFIOEMU_SOCKET", options=ORACLE
        ).strip()
        assert not Path(socket_path).parent.exists()

    def test_nothing_is_said_but_by_the_program(self, run):
        done = run(sys.executable, CLIENT, "once", options=ORACLE)
        assert (done.stdout, done.stderr) == ('{"ok": true}\n', "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (["--device=oracle,variant=basic", "--", "/nonexistent/program"], 127, ["no such file"]),
            ([DEVICE, "--", "vfioemu-no-such-program"], 127, ["not found in $PATH"]),
            ([DEVICE, "--", "/etc/passwd"], 126, ["not executable"]),
            ([DEVICE, "--", "/"], 126, ["not a regular file"]),
            (
                ["--device=oracel", "--", "true"],
                2,
                ["unknown device 'oracel'", "hint: did you mean 'oracle'?", "vfioemu devices"],
            ),
            (
                ["--device=oracle,varaint=basic", "--", "true"],
                2,
                ["'varaint'", "did you mean 'variant'?", "vfioemu devices oracle"],
            ),
            (["--device=oracle,variant", "--", "true"], 2, ["'variant' is not key=value"]),
            (["--device=oracle,variant=basic,group=x", "--", "true"], 2, ["group must be a number"]),
            (["--device=oracle,variant=basic,group=2147483648", "--", "true"], 2, ["group must be a number"]),
            (["--device=oracle,variant=basic,bus=isa", "--", "true"], 2, ["pci, mdev"]),
            (
                ["--device=oracle,variant=basic,bus=pci,name=1234", "--", "true"],
                2,
                ["name='1234' is neither a PCI address"],
            ),
            (["--device=oracle,variant=wrong", "--", "true"], 2, ["wrong"]),
            (["--device=,x=1", "--", "true"], 2, ["no model name before the options"]),
            (["--", "true"], 2, ["no device given", "--connect"]),
            (["--machine=/nonexistent.toml", "--", "true"], 2, ["/nonexistent.toml", "No such file"]),
            (["--connect=/nonexistent", "--", "true"], 1, ["no daemon runs in /nonexistent"]),
            (["--connect=/x", DEVICE, "--", "true"], 2, ["as it is"]),
            ([DEVICE, "--", "echo", "{bdf}"], 2, ["has no bdf", "{uuid}"]),
            ([DEVICE, "--", "echo", "{uuid1}"], 2, ["no device 1"]),
            ([DEVICE], 2, ["Missing argument"]),
            (["--instance=x y", "--", "true"], 1, ["`vfioemu serve --instance 'x y' --device MODEL"]),
            # what its daemon is told is said of `run`, to which it was given
            (["--machine=/tmp", "--", "true"], 2, ["is a directory", "see `vfioemu run --help`"]),
            ([DEVICE, "--profile=linux-5", "--", "true"], 2, ["linux-6.12", "see `vfioemu run --help`"]),
            ([DEVICE, "--memlock=x", "--", "true"], 2, ["'x' is neither", "see `vfioemu run --help`"]),
            (
                [DEVICE, "--trace-filter=x", "--", "true"],
                2,
                ["is neither a call", "see `vfioemu run --help`"],
            ),
            ([DEVICE, "--device=mtty,ports=3", "--", "true"], 2, ["device mtty0: ports: 1 or 2, not 3"]),
            (["--device=MTTY", "--", "true"], 2, ["unknown device 'MTTY'", "did you mean 'mtty'?"]),
            (["--device"], 2, ["requires an argument", "see `vfioemu run --help`"]),
        ],
        ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else str(value),
    )
    def test_each_says_what_and_what_next(self, arguments, status, words):
        line = [sys.executable, "-P", "-m", "vfioemu.cli.main", "run", *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == status, done.stderr
        assert done.stderr.startswith("vfioemu: error: ")
        assert done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr

    def test_a_static_program(self, run, static_program):
        done = run(static_program, options=ORACLE)
        assert done.returncode == 126
        assert f"{static_program} is statically linked: LD_PRELOAD cannot reach it" in done.stderr
        assert "hint:" in done.stderr

    def test_the_interpreter_of_a_script_is_what_counts(self, run, static_program, tmp_path):
        script = tmp_path / "script"
        script.write_text(f"#!{static_program} -x\n", encoding="ascii")
        script.chmod(0o755)
        outer = tmp_path / "outer"
        outer.write_text(f"#!  {script}\n", encoding="ascii")
        outer.chmod(0o755)
        for path in (script, outer):
            with pytest.raises(CommandError, match="static is statically linked"):
                find(path)
        by_env = tmp_path / "by-env"
        by_env.write_text(f"#!/usr/bin/env -S {static_program}\n", encoding="ascii")
        by_env.chmod(0o755)
        with pytest.raises(CommandError, match="static is statically linked"):
            find(by_env)
        script.write_text("#!/nonexistent/sh\n", encoding="ascii")
        with pytest.raises(CommandError, match="interpreter /nonexistent/sh does not exist") as refused:
            find(script)
        assert refused.value.exit_code == 127

    def test_a_script_without_a_first_line_is_a_shells(self, connected, tmp_path):
        script = tmp_path / "script"
        script.write_text('echo "$1"; exit 4\n', encoding="ascii")
        script.chmod(0o755)
        done = connected(script, "argument")
        assert (done.stdout, done.returncode) == ("argument\n", 4)

    def test_scripts_run(self, connected, tmp_path):
        script = tmp_path / "script"
        script.write_text(
            f"#!{sys.executable}\nimport os, sys; print(os.listdir('/dev/vfio'), sys.argv[1:])\n",
            encoding="ascii",
        )
        script.chmod(0o755)
        assert connected.output(script, "{group}").endswith("['21']\n")

    @pytest.mark.parametrize(
        ("machine", "bits", "words"),
        [
            (3, 1, "32-bit i386"),
            (183, 2, "64-bit AArch64"),
            (62, 1, "32-bit x86-64"),
            (999, 2, "machine 999"),
        ],
    )
    def test_a_program_of_another_machine(self, tmp_path, machine, bits, words):
        head = bytearray(Path("/bin/true").read_bytes())
        head[4] = bits
        struct.pack_into("=H", head, 18, machine)
        foreign = tmp_path / "foreign"
        foreign.write_bytes(head)
        foreign.chmod(0o755)
        with pytest.raises(CommandError, match=words):
            find(foreign)

    @pytest.mark.parametrize(
        ("loader", "words"),
        [(b"/lib/ld-musl-x86_64.so.1", "linked with musl"), (b"/nonexistent/ld.so", "does not exist")],
    )
    def test_a_program_with_another_loader(self, tmp_path, loader, words):
        contents = Path("/bin/true").read_bytes()
        (ours,) = {
            name
            for name in (b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-linux-aarch64.so.1")
            if name in contents
        }
        foreign = tmp_path / "foreign"
        foreign.write_bytes(contents.replace(ours, loader.ljust(len(ours), b"\0")))
        foreign.chmod(0o755)
        with pytest.raises(CommandError, match=words):
            find(foreign)

    def test_what_is_neither_program_nor_script(self, tmp_path):
        thing = tmp_path / "thing"
        thing.write_bytes(b"\0\1\2\3" * 100)
        thing.chmod(0o755)
        with pytest.raises(CommandError, match="neither an ELF program"):
            find(thing)


class TestPrivileges:
    """Programs with which the system ignores LD_PRELOAD. Files as if they were another's: uids are told by a fake."""

    @pytest.fixture
    def copy(self, tmp_path):
        path = tmp_path / "program"
        shutil.copy("/bin/true", path)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            pytest.skip("nothing is setuid on this file system")
        return path

    @pytest.mark.parametrize(("bits", "what"), [(0o4755, "is setuid"), (0o2755, "is setgid")])
    def test_setuid_and_setgid(self, copy, monkeypatch, bits, what):
        copy.chmod(bits)
        find(copy)  # of ourselves: nothing is gained
        monkeypatch.setattr(os, "getuid", lambda: 4711)
        monkeypatch.setattr(os, "getgid", lambda: 4711)
        with pytest.raises(CommandError, match=what) as refused:
            find(copy)
        assert refused.value.exit_code == 126

    def test_file_capabilities(self, copy, monkeypatch):
        monkeypatch.setattr(os, "getuid", lambda: 4711)
        find(copy)
        monkeypatch.setattr(os, "getxattr", lambda path, name: b"")
        with pytest.raises(CommandError, match="file capabilities"):
            find(copy)


def test_the_daemon_speaks_when_it_is_asked_to():
    line = [
        sys.executable,
        "-P",
        "-m",
        "vfioemu.cli.main",
        "-v",
        "run",
        DEVICE,
        "--",
        "sh",
        "-c",
        ": <>/dev/vfio/9",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert "ready: " in done.stderr
    assert "there is no /dev/vfio/9" in done.stderr


class TestTrace:
    def test_calls_are_written_to_a_file_that_is_complete_when_we_return(self, run, tmp_path):
        file = tmp_path / "calls"
        options = [DEVICE, f"--trace={file}", "--trace-format=json", "--trace-filter=open,ioctl"]
        done = run(sys.executable, CLIENT, "once", options=options)
        assert (done.stdout, done.stderr) == ('{"ok": true}\n', "")
        events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert sum(event.get("ioctl") == "VFIO_IOMMU_MAP_DMA" for event in events) == 1

    def test_and_to_stderr_otherwise(self, run):
        done = run("sh", "-c", "echo out; : <>/dev/vfio/vfio; : <>/dev/vfio/7", options=[DEVICE, "--trace"])
        assert done.stdout == "out\n"
        assert "<container>" in done.stderr
        assert "ENOENT" in done.stderr


class TestConnect:
    def test_programs_share_a_daemon(self, daemon):
        by_directory = Runner("--connect", str(daemon.directory))
        by_socket = Runner("--connect", str(daemon.socket_path))
        with by_directory.started(sys.executable, CLIENT, "wait", stdin=subprocess.PIPE) as first:
            assert first.stdout.readline() == b"ready\n"
            # The group is taken, and the program sees that it is one and the same.
            busy = by_socket(sys.executable, CLIENT, "once")
            assert "Device or resource busy" in busy.stderr
            first.stdin.close()
            assert first.stdout.readline() == b'{"ok": true}\n'
            assert first.wait(60) == 0
        assert by_socket.json(sys.executable, CLIENT, "once") == {"ok": True}
        assert daemon.alive()

    def test_by_the_name_of_its_instance(self, daemon):
        environment = {**os.environ, "VFIOEMU_RUNTIME_DIR": str(daemon.directory.parent)}
        done = Runner("--instance", daemon.directory.name)("sh", "-c", "echo {group}", env=environment)
        assert (done.stdout, done.returncode) == ("21\n", 0), done.stderr


def test_the_socket_is_nobody_elses(run):
    modes = run.python(
        "import os; d = os.path.dirname(os.environ['VFIOEMU_SOCKET'])\n"
        "print(oct(os.stat(d).st_mode & 0o777), oct(os.stat(os.environ['VFIOEMU_SOCKET']).st_mode & 0o777))",
        options=ORACLE,
    )
    assert modes == "0o700 0o600\n"


def test_help_is_short():
    for command in (["run"], ["devices"]):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vfioemu.cli.main", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) <= 24
        assert max(map(len, done.stdout.splitlines())) <= 80
