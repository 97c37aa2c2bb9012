# SPDX-License-Identifier: MIT
"""The commands as processes: exit codes, what they print, signals, and what is left when one side dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tests.migration.certificates import Authority
from tests.migration.test_endings import validate
from tests.migration.test_tls import garbage
from tests.sample import sampled
from vfioemu.migration import events

MACHINE = """
[[group]]
number = 12
[[group.device]]
symbol = "dma0"
name = "00000000-0000-4000-8000-000000000001"
model = "dma-engine"
[group.device.options]
type = {type}
{options}
"""
IOMMU = "[group.iommu]\n"
CERTIFICATES = ("--tls-cert", "cert", "--tls-key", "key", "--tls-ca", "ca")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GUEST = """
name = "small"
[[memory]]
name = "low"
size = "8 MiB"
[[memory]]
name = "high"
base = 0x100000000
size = "8 MiB"
[[cpu]]
memory = "low"
size = "1 MiB"
rate = 500
[[container]]
name = "c0"
[[container.device]]
name = "dma0"
group = 12
device = "00000000-0000-4000-8000-000000000001"
[container.device.program]
memory = "high"
size = "1 MiB"
pattern = "sequential"
rate = 4000
"""


def argv(*arguments):
    return [sys.executable, "-P", "-m", "vfioemu.cli.main", *map(str, arguments)]


class Place:
    """A directory with a machine file, a guest file, two daemons (`daemons`, by name) and a destination."""

    def __init__(self, base, stack):
        self.base = base
        self.stack = stack
        self.daemons = {}
        (base / "guest.toml").write_text(GUEST)

    def daemon(self, name, machine):
        file = self.base / f"{name}.toml"
        file.write_text(machine)
        self.daemons[name], _ = self.ready("-q", "serve", "-m", file, "--runtime-dir", self.base / name)

    def incoming(self, *options, uri=None, daemon="b"):
        """The destination's process, and where it listens."""
        where = ["-g", self.base / "guest.toml", "--runtime-dir", self.base / daemon]
        where += ["--state-dir", self.base / "state"]
        return self.ready("incoming", uri or f"unix:{self.base}/m", *where, *options)

    def migrate(self, uri, *options):
        """The source's process."""
        where = ["-g", self.base / "guest.toml", "--runtime-dir", self.base / "a"]
        where += ["--state-dir", self.base / "state"]
        return self.start(argv("migrate", uri, *where, *options))

    def ready(self, *command):
        read, write = os.pipe()
        process = self.start(argv(*command, "--ready-fd", write), pass_fds=[write])
        os.close(write)
        with open(read) as pipe:
            said = pipe.readline().strip()
        assert said, process.communicate()
        return process, said

    def start(self, command, **options):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.stack.callback(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextmanager
def place(type=1, options="", there=None):
    with tempfile.TemporaryDirectory(prefix="vfe") as name, ExitStack() as stack:
        it = Place(Path(name), stack)
        machine = MACHINE.format(type=type, options=options)
        if type != 1:
            machine = machine.replace("[[group.device]]", IOMMU + "[[group.device]]")
        it.daemon("a", machine)
        it.daemon("b", machine if there is None else there)
        yield it


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def json_events(text):
    """The events of --json, each of them as the schema says."""
    decoder = msgspec.json.Decoder(events.Event)
    validate(map(json.loads, text.splitlines()))
    return [decoder.decode(line) for line in text.splitlines()]


def wait_for(process, event):
    """Read a --json process up to an event of that name."""
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return json.loads(line)
    raise AssertionError(f"no {event}: {process.stderr.read()}")


def test_migration_prints_a_summary_and_exits_with_0():
    with place() as it:
        incoming, uri = it.incoming("--run-for", "200ms")
        code, out, err = finish(it.migrate(uri))
        assert code == 0, err
        assert "verified 4096/4096 pages, 1/1 devices, 0 lost DMA writes" in out
        assert "completed in" in out
        assert out.startswith(" outage ")
        assert "dma0 in c0: STOP_COPY P2P PRE_COPY; dirty pages by its own DMA log" in err
        code, out, err = finish(incoming)
        assert code == 0, err
        assert "alive here" in out


def test_json_is_one_valid_event_a_line_and_nothing_else():
    with place(options="logging = false") as it:
        incoming, uri = it.incoming("--run-for", "200ms", "--json", "--insecure", uri="tcp:127.0.0.1:0")
        code, out, err = finish(it.migrate(uri, "--insecure", "--json", "--bandwidth", "16MiB/s"))
        assert (code, err) == (0, "")
        told = json_events(out)
        assert isinstance(told[0], events.Hello)
        assert isinstance(told[-1], events.End)
        assert [event.seq for event in told] == list(range(len(told)))
        assert {event.side for event in told} == {"source"}
        code, out, err = finish(incoming)
        assert (code, err) == (0, "")
        told = json_events(out)
        assert isinstance(told[0], events.Listening)
        assert told[-1].code == 0
        assert {event.side for event in told} == {"destination"}


@pytest.mark.parametrize("tracker", sampled(["logging = true", "logging = false"]))
def test_hidden_page_exits_with_5_and_names_the_lost_write(tracker):
    with place(options=f"hide-page = 0x100010000\n{tracker}") as it:
        incoming, uri = it.incoming("--run-for", "100ms")
        options = ("--bandwidth", "16MiB/s", "--downtime", "100ms")
        code, out, err = finish(it.migrate(uri, *options))
        assert code == 5, out + err
        assert "LOST dma0 seq " in out
        assert "the source runs the guest" in out
        assert (
            "the guest was not moved and runs here, since 1 of 4096 pages differ\n  hint: --on-mismatch=move"
        ) in err
        code, out, err = finish(it.migrate(uri, *options, "--on-mismatch", "move"))
        assert code == 5, out + err
        assert "iova 0x100010000 (high page 16): the destination holds dma0 seq " in out
        assert "verified 4095/4096 pages" in out
        assert "the guest runs on unix:" in err
        assert "and is not what it was, since 1 of 4096 pages differ" in err
        assert "hint" not in err
        code, out, _ = finish(incoming)
        assert code == 5
        assert "verified 4095/4096 pages" in out


@pytest.mark.parametrize("number", sampled(ENDS))
def test_signal_cancels_with_4_and_the_next_migration_succeeds(number):
    with place() as it:
        incoming, uri = it.incoming("--run-for", "100ms")
        source = it.migrate(uri, "--json", "--bandwidth", "2MiB/s")
        wait_for(source, "progress")
        source.send_signal(number)
        code, out, err = finish(source)
        assert (code, err) == (4, "vfioemu: error: the migration was cancelled\n")
        told = json_events(out)
        assert told[-1].source_runs
        [alive] = [event for event in told if isinstance(event, events.Alive)]
        assert alive.cpu_writes > 0
        assert alive.dma_writes["dma0"] > 0
        assert incoming.poll() is None
        code, out, err = finish(it.migrate(uri))
        assert code == 0, err
        assert finish(incoming)[0] == 0


def test_killed_destination_exits_with_3_and_the_source_runs():
    with place() as it:
        incoming, uri = it.incoming()
        source = it.migrate(uri, "--json", "--bandwidth", "2MiB/s")
        wait_for(source, "progress")
        incoming.kill()
        code, out, err = finish(source)
        assert code == 3, err
        told = json_events(out)
        assert told[-1].reason == "peer_lost"
        [alive] = [event for event in told if isinstance(event, events.Alive)]
        assert alive.cpu_writes > 0
        assert alive.dma_writes["dma0"] > 0


@pytest.mark.slow
def test_killed_source_leaves_a_destination_that_takes_the_next_guest():
    with place() as it:
        incoming, uri = it.incoming("--run-for", "100ms")
        source = it.migrate(uri, "--json", "--bandwidth", "2MiB/s")
        wait_for(source, "progress")
        source.kill()
        source.wait()
        code, _, err = finish(it.migrate(uri))
        assert code == 0, err
        assert finish(incoming)[0] == 0


@pytest.mark.slow
def test_daemon_that_dies_under_the_source_is_a_failure_and_says_so():
    with place() as it:
        _, uri = it.incoming()
        daemon, _ = it.ready("-q", "serve", "-m", it.base / "a.toml", "--runtime-dir", it.base / "a2")
        source = it.start(
            argv(
                "migrate",
                uri,
                "-g",
                it.base / "guest.toml",
                "--runtime-dir",
                it.base / "a2",
                "--json",
                "--bandwidth",
                "2MiB/s",
            )
        )
        wait_for(source, "progress")
        daemon.kill()
        code, _, err = finish(source)
        assert code == 1, err
        assert "Traceback" not in err


@pytest.mark.slow
def test_daemon_that_dies_under_the_destination_leaves_the_source_running():
    with place() as it:
        daemon, _ = it.ready("-q", "serve", "-m", it.base / "b.toml", "--runtime-dir", it.base / "b2")
        incoming, uri = it.incoming(daemon="b2")
        source = it.migrate(uri, "--json", "--bandwidth", "2MiB/s", "--downtime", "30s")
        wait_for(source, "progress")
        daemon.kill()
        code, out, err = finish(source)
        assert code == 3, err
        assert json_events(out)[-1].reason == "device_error"
        code, _, err = finish(incoming)
        assert code == 1, err
        assert "cannot connect to the daemon at" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("number", sampled(ENDS))
def test_incoming_that_is_interrupted_ends_with_4_and_removes_its_socket(number):
    with place() as it:
        incoming, uri = it.incoming()
        incoming.send_signal(number)
        code, _, err = finish(incoming)
        assert code == 4, err
        assert err.endswith(f"vfioemu: error: {number.name} before a guest arrived\n")
        assert not Path(uri.removeprefix("unix:")).exists()


@pytest.mark.parametrize("number", sampled(ENDS))
def test_signal_before_the_migration_begins_ends_the_program(number):
    with place() as it:
        source = it.migrate(f"unix:{it.base}/m", "--warm-up", "1min")
        while "memfd:small-high" not in Path(f"/proc/{source.pid}/maps").read_text():
            assert source.poll() is None
            time.sleep(0.05)
        source.send_signal(number)
        code, _, err = finish(source)
        assert (code, err) == (
            128 + number,
            f"vfioemu: error: {number.name} before the migration began\n",
        )


@pytest.mark.slow
def test_options_describe_a_guest_without_a_file():
    with place() as it:
        options = ["--ram", "8MiB", "--cpus", "2", "--device", "12:00000000-0000-4000-8000-000000000001"]
        incoming, uri = it.ready(
            "incoming", f"unix:{it.base}/o", "--runtime-dir", it.base / "b", "--run-for", "100ms", *options
        )
        source = it.start(argv("migrate", uri, "--runtime-dir", it.base / "a", *options))
        code, out, err = finish(source)
        assert code == 0, err
        assert "verified 2048/2048 pages, 1/1 devices" in out
        assert "2 CPUs" in err
        assert finish(incoming)[0] == 0


@pytest.mark.slow
def test_guest_that_does_not_converge_exits_with_3_and_says_what_it_would_take():
    with place(type=2, options="logging = false") as it:
        _, uri = it.incoming()
        code, out, err = finish(
            it.migrate(uri, "--bandwidth", "32MiB/s", "--downtime", "100ms", "--max-rounds", "2")
        )
        assert code == 3, err
        assert "failed (not_converging) after" in out
        assert "s of downtime" in err
        assert (out + err).count("s of downtime") == 1
        assert "the source runs the guest" in out
        assert "hint: allow more --downtime" in err


def test_device_that_cannot_migrate_exits_with_9():
    with place(options="migration = []") as it:
        _, uri = it.incoming()
        code, out, err = finish(it.migrate(uri))
        assert code == 9, err
        assert "no_migration_support" in out + err


def test_group_that_somebody_else_has_open_is_not_blamed_on_the_daemon():
    with place() as it:
        it.incoming()
        where = ["-g", it.base / "guest.toml", "--runtime-dir", it.base / "b"]
        code, _, err = finish(it.start(argv("migrate", f"unix:{it.base}/other", *where)))
        assert code == 1
        assert "group 12: Device or resource busy" in err
        assert "hint: another process has the group open; only one can" in err
        assert "daemon running" not in err


@pytest.mark.slow
def test_guest_moves_over_tls_to_who_has_a_certificate_alone():
    with place() as it:
        both = Authority(it.base).files("localhost", "127.0.0.1")
        certificates = ["--tls-cert", both.cert, "--tls-key", both.key, "--tls-ca", both.ca]
        incoming, uri = it.incoming("--run-for", "200ms", *certificates, uri="tls:localhost:0")
        code, out, err = finish(it.migrate(uri, *certificates, "--tls-name", "elsewhere"))
        assert (code, "tls_refused" in err) == (3, True), err
        assert "not valid for 'elsewhere'" in err
        code, out, err = finish(it.migrate(uri, *certificates))
        assert code == 0, out + err
        assert "-> tls:localhost:" in err
        assert finish(incoming)[0] == 0


def resident(pid):
    """Bytes of memory that a process has, and how many sockets."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon")
    ]
    fds = Path(f"/proc/{pid}/fd")
    sockets = 0
    for fd in fds.iterdir():
        with suppress(FileNotFoundError):
            sockets += "socket:" in os.readlink(fd)
    return int(line.split()[1]) << 10, sockets


@pytest.mark.slow
def test_strangers_cost_a_destination_no_memory_and_keep_no_guest_out():
    """Six hundred, before and while a guest moves: silent, halfway through a handshake, garbage; all of them stay connected."""
    with place() as it, ExitStack() as stack:
        both = Authority(it.base).files("localhost", "127.0.0.1")
        certificates = ["--tls-cert", both.cert, "--tls-key", both.key, "--tls-ca", both.ca]
        incoming, uri = it.incoming("--run-for", "200ms", *certificates, uri="tls:127.0.0.1:0")
        port = int(uri.rpartition(":")[2])

        def come(number):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            try:
                stranger.send(garbage(number))
            except OSError:
                pass  # somebody else has its place already

        for number in range(60):
            come(number)
        memory, _ = resident(incoming.pid)
        for number in range(300):
            come(number)
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s", "--downtime", "1s", *certificates)
        wait_for(source, "progress")
        for number in range(300):
            come(number)
        grown, sockets = resident(incoming.pid)
        assert grown - memory < 8 << 20
        assert sockets < 40
        code, out, err = finish(source)
        assert code == 0, out + err
        assert finish(incoming)[0] == 0


@pytest.mark.slow
def test_one_attempt_that_fails_ends_incoming_with_3():
    with place() as it:
        incoming, uri = it.incoming("--attempts", "1")
        source = it.migrate(uri, "--json", "--bandwidth", "2MiB/s")
        wait_for(source, "progress")
        source.send_signal(signal.SIGINT)
        assert finish(source)[0] == 4
        code, _, err = finish(incoming)
        assert code == 3, err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["migrate", "ftp:x"], "expected unix:PATH, tls:HOST:PORT or tcp:127.0.0.1:PORT"),
        (["migrate", "tls:localhost:1"], "TLS needs --tls-cert, --tls-key and --tls-ca"),
        (["migrate", "tls:localhost:1", "--tls-ca", "x"], "--tls-cert, --tls-key and --tls-ca go together"),
        (["incoming", "unix:x", *CERTIFICATES], "certificates are for tls:"),
        (["incoming", "tls:localhost:0", *CERTIFICATES], "--tls-ca ca: No such file"),
        (["incoming", "tls:localhost:0", *CERTIFICATES, "--peer-uid", "0"], "--peer-uid is not for TLS"),
        (["migrate", "tcp:10.0.0.1:1", "--insecure"], "loopback only"),
        (["migrate", "tcp:127.0.0.1:1"], "TCP needs --insecure, on both sides: the stream is neither"),
        (["incoming", "tcp:127.0.0.1:0"], "TCP needs --insecure, on both sides: the stream is neither"),
        (["migrate", "sim:rtt=5:unix:x"], "sim:rtt=5: rtt=5: expected a time, as 2ms"),
        (["incoming", "sim:rtt=5ms:unix:x"], "sim: is the source's, which models both ways"),
        (["incoming", "unix:x", "--peer-uid", "me"], "expected a number or `any`"),
        (["incoming", "unix:x", "--verify", "maybe"], "'maybe' is not one of 'offered', 'required'"),
        (["incoming", "unix:x", "-g", "/nowhere.toml"], "No such file"),
        (["migrate", "unix:x", "--ram", "many"], "not a size"),
        (["migrate", "unix:x", "--ram", "9" * 400], "not a size"),
        (["migrate", "unix:x", "--ram", "5"], "--ram 5 is not a multiple of 4096"),
        (["migrate", "unix:x", "--ram", "0"], "--ram 0 is not a multiple of 4096"),
        (["migrate", "unix:x", "--ram", "99999TiB"], "--ram 109950063265972224 is not"),
        (["migrate", "unix:x", "--cpus", "1000"], "1000 is not in the range 0<=x<=96"),
        (
            ["migrate", "unix:x", "--device", "12:a", "--device", "12:a"],
            "a of group 12 is device dma0 already",
        ),
        (["migrate", "unix:x", "--device", "x"], "expected GROUP:NAME"),
        (["migrate", "unix:x", "--bandwidth", "fast"], "not a rate"),
        (["migrate", "unix:x", "--downtime", "soon"], "not a duration"),
        (["migrate", "unix:x", "--bandwidth", "1000"], "1000 bytes per second cannot be kept"),
        (["migrate", "unix:x", "--call-timeout", "10ms"], "--call-timeout 0.01s is shorter than 1s"),
        (["incoming", "unix:x", "--peer-timeout", "0.9s"], "--peer-timeout 0.9s is shorter than 1s"),
    ],
)
def test_unusable_arguments_exit_with_2(arguments, says):
    done = subprocess.run(argv(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("vfioemu: error: ")


def test_no_daemon_exits_with_1_and_a_hint(tmp_path):
    done = subprocess.run(
        argv("migrate", "unix:x", "--runtime-dir", tmp_path / "none"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "hint: is the daemon running?" in done.stderr


def test_schema_in_protocol_is_that_of_the_code():
    path = Path(__file__).parents[2] / "protocol" / "migration-events.schema.json"
    assert json.loads(path.read_text()) == events.schema()
