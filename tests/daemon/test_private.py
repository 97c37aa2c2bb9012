# SPDX-License-Identifier: MIT
"""Directories of our own: nobody else makes them for us, changes the way to them, or takes over their names."""

import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from tests.users import STRANGER, as_user, need_two_users
from vfioemu import private


@pytest.fixture
def places(common, monkeypatch):
    """Three places for a base; each like /tmp."""
    for name in ("a", "b", "c"):
        (common / name).mkdir()
        (common / name).chmod(0o1777)
    monkeypatch.setattr(
        private, "bases", lambda: iter([common / name / f"vfioemu-{os.getuid()}" for name in ("a", "b", "c")])
    )
    return common


@pytest.mark.parametrize("free", [1, 2, 4])
def test_a_deep_tree_is_removed_with_few_fds(common, free):
    """Who has too few of them fails, and shall leave nothing all the same."""
    tree = common / "tree"
    deepest = tree.joinpath(*"abcdefgh")
    deepest.mkdir(parents=True)
    (deepest / "file").touch()
    (common / "kept").mkdir()
    (common / "kept" / "file").touch()
    (tree / "a" / "folder").symlink_to(common / "kept")
    (tree / "a" / "nowhere").symlink_to("x")
    child = os.fork()
    if not child:
        first = os.dup(0)  # the lowest that is free
        os.closerange(first, 1024)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + free, first + free))
        private.remove_tree(tree)
        os._exit(os.path.lexists(tree))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (common / "kept" / "file").exists()
    private.remove_tree(tree)  # nothing is there


def bases_of(common):
    return [common / name / f"vfioemu-{os.getuid()}" for name in ("a", "b", "c")]


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def test_it_lies_below_one_of_our_own_which_stays(places):
    with private.private_directory() as directory:
        assert directory.parent == bases_of(places)[0]
        assert (mode(directory), mode(directory.parent)) == (0o700, 0o700)
        assert not [path for path in (places / "a").iterdir() if path != directory.parent]
    assert list(bases_of(places)[0].iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o777, 0o277])
def test_the_umask_does_not_matter(places, umask):
    before = os.umask(umask)
    try:
        with private.private_directory() as directory:
            assert (mode(directory), mode(directory.parent)) == (0o700, 0o700)
    finally:
        os.umask(before)


def test_one_is_removed_whose_owner_was_killed_and_others_are_left(places):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with private.private_directory("killed") as directory:
            (directory / "file").write_text("x")
            os.write(writer, os.fsencode(directory))
            signal.pause()
    left = Path(os.fsdecode(os.read(reader, 4096)))
    with private.private_directory() as mine, private.private_directory() as other:
        assert left.exists()  # it is used
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with private.private_directory():
            assert not left.exists()
            assert mine.exists()
            assert other.exists()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("inside", [[], [".owner.new"]])
def test_one_goes_whose_owner_was_killed_while_he_made_it(places, inside):
    """Before it had its lock. One that is young may be in the making."""
    with private.private_directory() as directory:
        base = directory.parent
    old, young = base / ".run-old", base / ".run-young"
    for made in (old, young):
        made.mkdir(0o700)
        for name in inside:
            (made / name).touch()
    os.utime(old, (0, 0))
    with private.private_directory():
        assert not old.exists()
        assert young.exists()


def test_one_that_is_kept_is_kept(places):
    with private.private_directory("kept", keep=True) as directory:
        (directory / "file").write_text("x")
    with private.private_directory():
        assert [path.name for path in directory.iterdir()] == ["file"]


def squat_with_a_directory(base):
    base.mkdir(0o777)
    base.chmod(0o777)


def squat_with_a_closed_directory(base):
    base.mkdir(0o700)


def squat_with_a_link(base):
    base.symlink_to("/tmp")


def squat_with_a_link_to_nothing(base):
    base.symlink_to("nothing")


def squat_with_a_file(base):
    base.write_text("")


SQUATS = [
    squat_with_a_directory,
    squat_with_a_closed_directory,
    squat_with_a_link,
    squat_with_a_link_to_nothing,
    squat_with_a_file,
]


@pytest.mark.parametrize("squat", SQUATS)
def test_who_has_taken_the_name_is_gone_around(places, squat):
    need_two_users()
    first, second, _ = bases_of(places)
    as_user(STRANGER, squat, first)
    with private.private_directory() as directory:
        assert directory.parent == second
    assert first.lstat().st_uid == STRANGER


def test_link_of_a_stranger_to_a_directory_of_ours_is_not_followed(places):
    need_two_users()
    first, second, _ = bases_of(places)
    (places / "ours").mkdir(0o700)
    as_user(STRANGER, first.symlink_to, places / "ours")
    with private.private_directory() as directory:
        assert directory.parent == second


def test_where_all_names_are_taken_it_says_which_and_by_whom(places):
    need_two_users()
    for base in bases_of(places):
        as_user(STRANGER, squat_with_a_directory, base)
    with pytest.raises(private.PlaceError) as refused, private.private_directory():
        pass
    for base in bases_of(places):
        assert f"{base} belongs to uid {STRANGER}" in str(refused.value)
    assert "XDG_RUNTIME_DIR" in refused.value.hint


def test_one_of_our_own_that_others_can_write_is_not_used(places):
    first, second, _ = bases_of(places)
    first.mkdir()
    first.chmod(0o777)
    with private.private_directory() as directory:
        assert directory.parent == second
    first.chmod(0o755)
    with private.private_directory() as directory:
        assert directory.parent == first
        assert mode(first) == 0o700


def test_nothing_is_made_in_somebody_elses_directory(common, monkeypatch):
    """$XDG_RUNTIME_DIR of another user, as `su` leaves it."""
    need_two_users()
    as_user(STRANGER, (common / "his").mkdir)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(common / "his"))
    monkeypatch.setenv("TMPDIR", os.fspath(common))
    with private.private_directory() as directory:
        assert directory.parent == common / f"vfioemu-{os.getuid()}"
    assert list((common / "his").iterdir()) == []


def test_places_are_tried_in_turn(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    monkeypatch.setenv("TMPDIR", "relative")
    own = f"vfioemu-{os.getuid()}"
    assert list(private.bases()) == [Path("/run/user/1/vfioemu"), Path("/dev/shm", own), Path("/tmp", own)]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * 70)  # no room for a socket's name
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert list(private.bases()) == [Path("/var/tmp", own), Path("/dev/shm", own), Path("/tmp", own)]


class TestWay:
    def test_our_own_below_a_sticky_one(self, common):
        (common / "ours").mkdir()
        private.check_way(common / "ours")

    @pytest.mark.parametrize(("bits", "who"), [(0o777, "everybody"), (0o775, "the group")])
    def test_directory_that_others_write(self, common, bits, who):
        need_two_users()
        (common / "wide").mkdir()
        (common / "wide" / "ours").mkdir()
        os.chown(common / "wide", 0, STRANGER)
        (common / "wide").chmod(bits)
        with pytest.raises(private.PlaceError, match=f"wide can be written by {who}") as refused:
            private.check_way(common / "wide" / "ours")
        assert refused.value.hint == f"chmod go-w {common / 'wide'}"

    def test_somebody_elses_directory_anywhere_on_the_way(self, common):
        need_two_users()
        as_user(STRANGER, (common / "his").mkdir)
        (common / "his" / "a").mkdir()
        (common / "his" / "a" / "b").mkdir()
        with pytest.raises(private.PlaceError, match=f"his belongs to uid {STRANGER}"):
            private.check_way(common / "his" / "a" / "b")

    def test_somebody_elses_link_behind_one_of_ours(self, common):
        need_two_users()
        (common / "real").mkdir()
        as_user(STRANGER, (common / "second").symlink_to, "real")
        (common / "first").symlink_to("second")
        with pytest.raises(private.PlaceError, match=f"second belongs to uid {STRANGER}"):
            private.check_way(common / "first")

    def test_links_in_a_circle(self, common):
        (common / "a").symlink_to("b")
        (common / "b").symlink_to("a")
        with pytest.raises(OSError, match="symbolic links"):
            private.check_way(common / "a" / "c")
