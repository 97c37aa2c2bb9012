# SPDX-License-Identifier: MIT
"""How tests run programs under `vfioemu run`."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from vfioemu import preload

HERE = Path(__file__).parent
PATIENCE = 120.0
CLIENT = HERE / "client.py"


def compile_c(source, out, *options):
    """Compile a program; its path."""
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-o", out, source, *options], check=True, capture_output=True, text=True)
    return out


class Runner:
    """Runs programs under `vfioemu run`.

    Args:
        options: of `vfioemu run`.
    """

    def __init__(self, *options):
        self.options = options

    def line(self, *command, options=()):
        """The command line."""
        return [
            sys.executable,
            "-P",
            "-m",
            "vfioemu.cli.main",
            "run",
            *self.options,
            *options,
            "--",
            *map(str, command),
        ]

    def __call__(self, *command, options=(), **more):
        """Run a program to its end: a CompletedProcess with text."""
        if "input" not in more:
            more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            self.line(*command, options=options),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **more,
        )

    def output(self, *command, options=(), **more):
        """What a program that succeeds prints."""
        done = self(*command, options=options, **more)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def json(self, *command, options=(), **more):
        """The same, from JSON."""
        return json.loads(self.output(*command, options=options, **more))

    def python(self, code, *arguments, options=(), **more):
        """What a Python program prints."""
        return self.output(sys.executable, "-c", code, *arguments, options=options, **more)

    @contextlib.contextmanager
    def started(self, *command, options=(), **more):
        """A program that runs, and ends at the latest with the block; its stdout is a pipe."""
        process = subprocess.Popen(
            self.line(*command, options=options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def preloaded(directory):
    """What `vfioemu run --connect` adds to the environment, for programs that need no more of it."""
    return {
        "LD_PRELOAD": str(preload.library()),
        "VFIOEMU_SOCKET": str(directory / "vfio.sock"),
        "VFIOEMU_UID": str(os.getuid()),
        "VFIOEMU_ROOT": str(directory / "root"),
    }


def read_line(process, timeout=PATIENCE):
    """The next line of a started program."""
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        assert ready, f"nothing but {data!r}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, data
        data += byte
    return data.decode()[:-1]


def children(pid):
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid):
    """Whether a process is gone, or dead and not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(pid, timeout=PATIENCE):
    """Wait until a process has ended that is not our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout)[0])
    finally:
        os.close(fd)


@contextlib.contextmanager
def short_directory():
    """A directory whose sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="vfr-") as name:
        yield Path(name)


def end(pid):
    """Kill a process if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
