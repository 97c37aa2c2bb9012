# SPDX-License-Identifier: MIT
"""The journal of hand-overs: what it tells after the death of who wrote it, and of what is broken in whatever way."""

import errno
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.test_engine import take_over
from vfioemu.migration import journal
from vfioemu.migration.files import Folder, Volatile
from vfioemu.migration.handover import Handover, Refusal, Start
from vfioemu.migration.journal import Journal, Role, Standing
from vfioemu.migration.plan import Reason
from vfioemu.migration.records import MOST_BYTES, DamagedError, Entry, Record, decode, encode
from vfioemu.private import PlaceError

TOKEN = "0" * 32
NO = Refusal(Reason.DEVICE_ERROR, "it does not start")
entries = st.builds(
    Entry,
    record=st.sampled_from(Record),
    when=st.floats(0, 1e10),
    uri=st.text(max_size=50),
    guest=st.text(max_size=50),
    pid=st.integers(0, 1 << 22),
    why=st.text(max_size=50),
)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "state")


def die(handover):
    """The process that had it is dead: the kernel closes its files, and nothing else happens."""
    for log in handover._logs.values():
        log.close()


# --- records ---


@given(st.lists(entries, max_size=6), st.data())
def test_any_torn_end_is_as_if_it_had_not_been_written(written, data):
    whole = b"".join(map(encode, written))
    assert decode(whole) == (written, len(whole))
    if written:
        start = len(whole) - len(encode(written[-1]))
        cut = data.draw(st.integers(start, len(whole) - 1))
        assert decode(whole[:cut]) == (written[:-1], start)
        zeros = bytes(len(whole) - cut)
        assert decode(whole[:cut] + zeros) == (written[:-1], start)


@given(st.lists(entries, min_size=2, max_size=4), st.data())
def test_damage_before_a_good_record_is_no_torn_end(written, data):
    whole = bytearray(b"".join(map(encode, written)))
    last = len(encode(written[-1]))
    at = data.draw(st.integers(0, len(whole) - last - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        got, _ = decode(bytes(whole))
    except DamagedError:
        return
    # A flip in the newline before it takes the last record with it.
    assert got == written[: len(got)]
    assert len(got) < len(written)


@given(st.binary(max_size=300))
def test_any_bytes_are_records_or_damaged(data):
    try:
        got, size = decode(data)
    except DamagedError:
        return
    assert size <= len(data)
    assert bool(got) == bool(size)


def test_a_log_is_bounded():
    with pytest.raises(DamagedError, match=str(MOST_BYTES)):
        decode(bytes(MOST_BYTES + 1))


# --- a destination that dies, and is started again ---


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("ready", Standing.REFUSED),
        ("starting", Standing.ENDED),
        ("started", Standing.ENDED),
        ("not started", Standing.REFUSED),
        ("asked", Standing.REFUSED),
        ("connection lost", Standing.REFUSED),
        ("loading", Standing.REFUSED),
    ],
)
def test_destination_that_was_killed_answers_after_its_restart(folder, moment, told):
    first = Handover(Journal(folder))
    assert first.accept(TOKEN)
    if moment != "loading":
        assert first.prepared(TOKEN) is None
    if moment == "starting":
        assert next(first.take_over(TOKEN)) == Start()
    if moment == "started":
        assert take_over(first, TOKEN) is None
    if moment == "not started":
        assert take_over(first, TOKEN, NO) == NO
    if moment == "asked":
        first.query(TOKEN)
    if moment == "connection lost":
        first.lost(TOKEN)
    assert Journal(folder).settle(TOKEN) in (Standing.UNKNOWN, Standing.REFUSED)  # as long as it lives
    die(first)
    for again in range(2):
        second = Handover(Journal(folder))
        assert second.query(TOKEN) is told, again
        assert not second.accept(TOKEN)


def test_token_that_was_never_ready_leaves_nothing(folder):
    handover = Handover(Journal(folder))
    handover.accept(TOKEN)
    handover.lost(TOKEN)
    assert folder.names() == []


def test_guest_that_moved_and_whose_source_knows_it_leaves_nothing(folder):
    handover = Handover(Journal(folder))
    handover.accept(TOKEN)
    assert handover.prepared(TOKEN) is None
    assert take_over(handover, TOKEN) is None
    handover.released(TOKEN)
    assert folder.names() == []
    assert handover.query(TOKEN) is Standing.STARTED  # as long as it lives


def test_directory_that_was_removed_is_made_again(folder):
    folder.path.rmdir()
    assert folder.names() == []
    Journal(folder).begin(Role.SOURCE, TOKEN).remove()


def test_living_process_is_not_settled_by_another_one(folder):
    first = Handover(Journal(folder))
    first.accept(TOKEN)
    first.prepared(TOKEN)
    assert Handover(Journal(folder)).query(TOKEN) is Standing.UNKNOWN
    assert take_over(first, TOKEN) is None


def test_torn_started_is_no_started(folder):
    handover = Handover(Journal(folder))
    handover.accept(TOKEN)
    handover.prepared(TOKEN)
    die(handover)
    with open(folder.path / f"{TOKEN}.destination", "ab") as file:
        file.write(encode(Entry(record=Record.STARTED))[:-1])
    assert Journal(folder).settle(TOKEN) is Standing.REFUSED
    log = Journal(folder).take(Role.DESTINATION, TOKEN)
    assert log.records == [Record.BEGUN, Record.READY, Record.REFUSED]


def test_damaged_log_settles_nothing(folder):
    handover = Handover(Journal(folder))
    handover.accept(TOKEN)
    handover.prepared(TOKEN)
    die(handover)
    path = folder.path / f"{TOKEN}.destination"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert Journal(folder).settle(TOKEN) is Standing.UNKNOWN


# --- a disk that fails ---


class Failing(Volatile):
    """Files of which the n-th write fails, after half of it has got through."""

    def __init__(self, nth):
        super().__init__()
        self.left = nth

    def create(self, name):
        file = super().create(name)
        append = file.append

        def failing(data):
            self.left -= 1
            if self.left == 0:
                append(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(data)

        file.append = failing  # type: ignore[method-assign]
        return file


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_disk_that_is_full_starts_no_guest_that_is_not_written_down(nth):
    failing = Failing(nth)
    handover = Handover(Journal(failing))
    if nth == 1:
        with pytest.raises(OSError, match="No space"):
            handover.accept(TOKEN)
        assert failing.names() == []
        return
    handover.accept(TOKEN)
    refused = handover.prepared(TOKEN)
    if refused is None:
        steps = handover.take_over(TOKEN)
        try:
            next(steps)
        except StopIteration as end:
            refused = end.value
        else:
            assert nth == 4
            with pytest.raises(StopIteration):
                steps.send(NO)
            assert handover.query(TOKEN) is Standing.REFUSED
            return
    assert refused.reason is Reason.LOG_FAILED
    assert "No space left" in refused.detail
    assert handover.query(TOKEN) is Standing.REFUSED
    if nth == 2:  # READY was never said, so nobody will ask
        assert failing.names() == []
        return
    data = failing._files[f"{TOKEN}.destination"].read(1 << 20)
    assert decode(data)[0][-1].record is Record.REFUSED


# --- the directory ---


def test_directory_is_ours_alone(tmp_path):
    folder = Folder(tmp_path / "state")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    log = Journal(folder).begin(Role.SOURCE, TOKEN)
    assert stat.S_IMODE((folder.path / f"{TOKEN}.source").stat().st_mode) & 0o077 == 0
    log.close()
    folder.path.chmod(0o770)
    with pytest.raises(PlaceError, match="open to others"):
        Folder(folder.path)


def test_link_in_place_of_a_log_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"")
    (folder.path / f"{TOKEN}.destination").symlink_to(tmp_path / "elsewhere")
    assert Journal(folder).settle(TOKEN) is Standing.UNKNOWN
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_files_are_bounded_and_those_of_the_living_stay(folder, monkeypatch):
    monkeypatch.setattr(journal, "MOST_FILES", 8)
    logs = Journal(folder)
    mine = logs.begin(Role.SOURCE, "f" * 32)
    for number in range(20):
        logs.begin(Role.DESTINATION, f"{number:032x}").close()
        os.utime(folder.path / f"{number:032x}.destination", ns=(number, number))
    names = folder.names()
    assert len(names) <= 9
    assert f"{'f' * 32}.source" in names
    assert f"{19:032x}.destination" in names
    mine.close()


def test_name_of_a_file_is_durable_before_its_first_record(folder, monkeypatch):
    """fsync() of a file says nothing of its name: the directory is synced, too, and first."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    log = Journal(folder).begin(Role.SOURCE, TOKEN)
    log.write(Record.COMMIT)
    log.close()
    assert synced == [True, False, False]
