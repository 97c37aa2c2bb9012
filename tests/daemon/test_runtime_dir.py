# SPDX-License-Identifier: MIT
"""The runtime directory: private, one daemon, stale sockets, long paths."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from vfioemu import daemon
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon import runtime_dir as rd


@pytest.fixture
def folder():
    """A short path, not pytest's."""
    with tempfile.TemporaryDirectory(prefix="vfioemu-") as name:
        yield Path(name)


def test_made_private(folder):
    rd.make_private(folder / "a" / "b")
    assert stat.S_IMODE((folder / "a" / "b").stat().st_mode) == 0o700
    rd.make_private(folder / "a" / "b")


def test_open_to_others_is_refused(folder):
    folder.chmod(0o755)
    with pytest.raises(rd.StartError, match="open to others") as refused:
        rd.make_private(folder)
    assert "chmod 700" in refused.value.hint
    folder.chmod(0o711)
    rd.make_private(folder, shared=True)


def test_private_one_is_opened_when_it_is_shared(folder):
    rd.make_private(folder / "a")
    rd.make_private(folder / "a", shared=True)
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o711


def test_of_somebody_else_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(rd.StartError, match="belongs to"):
        rd.make_private(folder)


def test_place_that_somebody_has_made_before_is_refused(folder, monkeypatch):
    """Who owns the directory above ours, in /tmp, can put a daemon of his in the place of ours."""
    folder.chmod(0o1777)
    (folder / "ours").mkdir(0o700)
    rd.make_private(folder / "ours" / "a")
    (folder / "ours").chmod(0o777)
    with pytest.raises(rd.StartError, match="can be written by everybody"):
        rd.make_private(folder / "ours" / "a")
    (folder / "ours").chmod(0o700)
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:
        os.chown(folder / "ours", 12345, 12345)
    with pytest.raises(rd.StartError, match="belongs to uid"):
        rd.make_private(folder / "ours" / "a")


def test_lock_that_cannot_be_made(folder):
    (folder / rd.LOCK).symlink_to("elsewhere")
    with pytest.raises(rd.StartError, match="cannot make"), rd.occupied(folder):
        pass


def test_pid_file_that_cannot_be_written(folder):
    (folder / rd.PID).mkdir()
    with pytest.raises(rd.StartError, match="cannot write"), rd.occupied(folder):
        pass


def test_symlink_and_file_are_refused(folder):
    (folder / "link").symlink_to(folder)
    (folder / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(rd.StartError, match="not a directory"):
            rd.make_private(folder / name)


def test_long_path_is_refused(folder):
    with (
        pytest.raises(rd.StartError, match="the limit is 107"),
        rd.listening(folder / ("x" * 100), socket.SOCK_STREAM),
    ):
        pass


def test_one_daemon_to_a_directory(folder):
    with rd.occupied(folder):
        assert (folder / "pid").read_text() == f"{os.getpid()}\n"
        with pytest.raises(rd.StartError, match=f"pid {os.getpid()}"), rd.occupied(folder):
            pass
    assert not (folder / "pid").exists()
    with rd.occupied(folder):
        pass


def test_stale_socket_is_replaced_and_a_live_one_is_not(folder):
    path = folder / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(os.fspath(path))
    with rd.listening(path, socket.SOCK_STREAM):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        with pytest.raises(rd.StartError, match="somebody listens"), rd.listening(path, socket.SOCK_STREAM):
            pass
    assert not path.exists()
    path.write_text("")
    with pytest.raises(rd.StartError, match="not a socket"), rd.listening(path, socket.SOCK_STREAM):
        pass
    assert path.exists()


def test_default_places(monkeypatch, folder):
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", "/a")
    assert rd.default_runtime_dir("x") == Path("/a/x")
    monkeypatch.delenv("VFIOEMU_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(folder))
    assert rd.default_runtime_dir() == folder / "vfioemu/default"
    last = Path(f"/tmp/vfioemu-{os.getuid()}/default")
    for useless in ("", "relative", os.fspath(folder / "gone")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", useless)
        assert rd.default_runtime_dir() == last
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rd.default_runtime_dir() == last


def test_hints_name_a_daemon_as_it_has_to_be_typed(monkeypatch):
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", "/a")
    monkeypatch.delenv("VFIOEMU_INSTANCE", raising=False)
    for directory, words in (
        ("/a/default", ""),
        ("/a/x", " --instance x"),
        ("/a/x y", " --instance 'x y'"),
        ("/b/x", " --runtime-dir /b/x"),
        ("/b/it's", """ --runtime-dir '/b/it'"'"'s'"""),
    ):
        assert rd.naming(Path(directory)) == words
        assert rd.how_to_start(Path(directory)).startswith(f"`vfioemu serve{words} --device MODEL ")
    monkeypatch.setenv("VFIOEMU_INSTANCE", "x")
    assert rd.naming(Path("/a/x")) == ""
    assert rd.naming(Path("/a/default")) == " --instance default"


def test_a_name_that_is_too_long_leaves_no_directory(folder):
    path = folder / "new" / ("x" * 120)
    with pytest.raises(rd.StartError, match="the limit is 107"):
        rd.make_private(path)
    assert not path.parent.exists()


def test_runtime_directory_of_whom_we_were_before_su_is_left_alone(monkeypatch, folder):
    monkeypatch.delenv("VFIOEMU_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(folder))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert rd.default_runtime_dir() == Path("/tmp/vfioemu-12345/default")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_name_of_an_instance_names_one_directory(name):
    with pytest.raises(rd.StartError, match="cannot be the name of an instance"):
        rd.default_runtime_dir(name)


def test_instance_of_somebody_else_is_not_taken_for_ours(folder, monkeypatch):
    """Who comes first may make /tmp/vfioemu-UID for any uid, and have a daemon of his listen there."""
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", os.fspath(folder / "base"))
    with pytest.raises(rd.StartError, match=r"no daemon runs in .*base/x: No such file"):
        rd.own_runtime_dir("x")  # by the time we connect there could be his
    rd.make_private(folder / "base" / "x")
    assert rd.own_runtime_dir("x") == folder / "base" / "x"
    (folder / "base" / "link").symlink_to("x")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    for name in ("x", "link"):
        with pytest.raises(rd.StartError, match="belongs to uid"):
            rd.own_runtime_dir(name)


def test_base_that_a_stranger_may_change_has_no_instance_of_ours(folder, monkeypatch):
    folder.chmod(0o1777)
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", os.fspath(folder / "base"))
    rd.make_private(folder / "base" / "x")
    (folder / "base").chmod(0o777)
    with pytest.raises(rd.StartError, match="can be written by everybody"):
        rd.own_runtime_dir("x")


def test_base_of_a_stranger_without_an_instance_is_not_taken_for_ours(folder, monkeypatch):
    """He can put one there, and take it away, at any moment."""
    folder.chmod(0o1777)
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", os.fspath(folder / "base"))
    (folder / "base").mkdir(0o755)
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:
        os.chown(folder / "base", 12345, 12345)
    with pytest.raises(rd.StartError, match="belongs to uid"):
        rd.own_runtime_dir("x")


def test_link_of_a_stranger_is_not_followed_to_ours(folder, monkeypatch):
    """It leads where he wants, when he wants; a link of our own may lie in /tmp."""
    (folder / "open").mkdir()
    (folder / "open").chmod(0o1777)
    rd.make_private(folder / "real" / "x")
    link = folder / "open" / "base"
    link.symlink_to(folder / "real")
    monkeypatch.setenv("VFIOEMU_RUNTIME_DIR", os.fspath(link))
    assert rd.own_runtime_dir("x") == link / "x"
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:
        os.lchown(link, 12345, 12345)
    with pytest.raises(rd.StartError, match="belongs to uid"):
        rd.own_runtime_dir("x")
    with pytest.raises(rd.StartError, match="belongs to uid"):
        rd.make_private(link / "x")


async def test_daemon_leaves_nothing_behind(folder):
    directory = folder / "run"
    async with daemon.running(MachineSpec(), directory) as running:
        assert stat.S_IMODE(running.socket_path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(running.control_path.lstat().st_mode) == 0o600
    assert [path.name for path in directory.iterdir()] == ["lock"]


async def test_daemon_for_others_opens_its_socket_and_nothing_else(folder):
    directory = folder / "run"
    async with daemon.running(MachineSpec(), directory, uids=frozenset({65534})) as running:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711
        assert stat.S_IMODE(running.socket_path.lstat().st_mode) == 0o666
        assert stat.S_IMODE(running.control_path.lstat().st_mode) == 0o600
