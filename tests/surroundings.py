# SPDX-License-Identifier: MIT
"""What tests find around them: a home, and places for temporary files, that are theirs alone and go with them.

So no test touches the user's own, and none depends on it. Each place is looked at when the session has ended: what a
test has left there, or changed at home, fails the session.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

PREFIX = "vft-"
FROM_A_SHELL = (
    "HISTFILE",
    "LD_PRELOAD",
    "NOTIFY_SOCKET",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUNBUFFERED",
    "VFIOEMU_DEBUG",
    "VFIOEMU_INSTANCE",
    "VFIOEMU_ROOT",
    "VFIOEMU_RUNTIME_DIR",
    "VFIOEMU_SOCKET",
    "VFIOEMU_UID",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)
"""What one shell has and another has not."""
HOME = {
    ".bash_history": "".join(f"echo {n}\n" for n in range(5000)),
    ".python_history": "import this\n",
    ".cache/pip/somebodys": "kept",
    ".config/vfioemu/nothing": "kept",
}
"""What people have at home."""


class Surroundings:
    """The places of one session; `leave()` says what was left in them, and removes them."""

    def __init__(self) -> None:
        memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
        for place in filter(None, (memory, Path(tempfile.gettempdir()))):
            _sweep(place)
        self.base = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.base.chmod(0o711)  # tests that become another user have a home and a TMPDIR, too
        self.home, self.temporary = self.base / "home", self.base / "t"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.runtime = Path(tempfile.mkdtemp(prefix=PREFIX, dir=memory))  # daemons make hundreds of files
        self._locks = [_lock(place) for place in (self.base, self.runtime)]
        for name, text in HOME.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text, encoding="ascii")
        self.home.chmod(0o555)
        self._before = _contents(self.home)

    def enter(self) -> None:
        """Make them the environment of this process and of all that it starts."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ.setdefault("VFIOEMU_CACHE", os.path.join(cache, "vfioemu"))  # QEMUs, for test-interop
        for name in FROM_A_SHELL:
            os.environ.pop(name, None)
        os.environ["HOME"] = os.fspath(self.home)
        os.environ["TMPDIR"] = os.fspath(self.temporary)
        os.environ["XDG_RUNTIME_DIR"] = os.fspath(self.runtime)
        tempfile.tempdir = None
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:  # `make test &` of a script; nohup
                signal.signal(number, signal.SIG_DFL)

    def leave(self) -> list[str]:
        """Remove the places; what should not have been there, a line each."""
        after = _contents(self.home)
        left = [
            f"{self.home / name} was changed"
            for name in sorted(self._before.keys() | after.keys())
            if self._before.get(name) != after.get(name)
        ]
        for place in (self.temporary, self.runtime):
            left += [f"{path} was left" for path in sorted(place.iterdir()) if not _stays(path)]
        for lock in self._locks:
            os.close(lock)
        for place in (self.base, self.runtime):
            _remove(place)
        return left


def _stays(path: Path) -> bool:
    """Our lock, or where a user's private directories go (vfioemu/private.py): that stays, and is empty."""
    return path.name == "lock" or (
        path.name.startswith("vfioemu") and path.is_dir() and not any(path.iterdir())
    )


def _contents(folder: Path) -> dict[str, str]:
    return {
        os.fspath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder"
        for path in folder.rglob("*")
    }


def _lock(place: Path) -> int:
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _sweep(place: Path) -> None:
    """Remove what sessions have left that were killed."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    for root, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):
                Path(root, name).chmod(0o700, follow_symlinks=True) if not Path(
                    root, name
                ).is_symlink() else None
    shutil.rmtree(folder, ignore_errors=True)
