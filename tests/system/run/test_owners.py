# SPDX-License-Identifier: MIT
"""What programs can change of nodes and of sysfs, and what file system they are told of."""

import errno
import os
import sys

import pytest

BDF = "00fe:00:1e.0"
DEVICE = f"/sys/bus/pci/devices/{BDF}"
NODE = "/dev/vfio/23"
PRELUDE = f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
DEVICE, NODE = {DEVICE!r}, {NODE!r}
def call(name, *words):
    words = [os.fsencode(word) if isinstance(word, str) else word for word in words]
    return 0 if not getattr(libc, name)(*words) else errno.errorcode[ctypes.get_errno()]
"""
SYSFS, TMPFS, ANON = 0x62656572, 0x01021994, 0x09041934


def said(connected, code, *arguments):
    """What a program prints of an expression, line by line."""
    return connected.python(PRELUDE + code, *arguments).splitlines()


@pytest.mark.parametrize("name", ["statfs", "statfs64", "fstatfs", "fstatfs64"])
def test_file_systems(connected, name):
    code = f"""
for path in DEVICE, DEVICE + "/uevent", DEVICE + "/iommu_group", "/sys", "/sys/class", NODE, "/dev/vfio", "/dev/vfio/vfio":
    out = (ctypes.c_long * 64)()
    what = os.open(path, os.O_RDONLY) if {name!r}[0] == "f" else path
    print(call({name!r}, what, out), hex(out[0]), out[1])
"""
    if name.startswith("f"):
        code = code.replace("os.O_RDONLY", "os.O_RDONLY if 'vfio/' in path else os.O_PATH")
    found = said(connected, code)
    assert found[:5] == [f"0 {SYSFS:#x} 4096"] * 5
    kinds = {line.split()[1] for line in found[5:]}
    assert kinds == {f"{TMPFS:#x}"}


@pytest.mark.parametrize("name", ["statvfs", "fstatvfs", "statvfs64", "fstatvfs64"])
def test_file_systems_in_the_words_of_posix(connected, name):
    code = f"""
out = (ctypes.c_ulong * 32)()
what = os.open(DEVICE + "/uevent", os.O_RDONLY) if {name!r}[0] == "f" else DEVICE
print(call({name!r}, what, out), *out[:3], out[10], call({name!r}, -1 if {name!r}[0] == "f" else "/sys/no", out))
print(call({name!r}, what, ctypes.c_void_p(8)), os.statvfs("/proc").f_bsize)
"""
    failure = "EBADF" if name.startswith("f") else "ENOENT"
    assert said(connected, code) == [f"0 4096 4096 0 255 {failure}", f"EFAULT {os.statvfs('/proc').f_bsize}"]


def test_file_systems_of_emulated_fds(connected):
    code = """
import fcntl, struct
container = os.open("/dev/vfio/vfio", os.O_RDWR)
group = os.open(NODE, os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 1)
device = fcntl.ioctl(group, 0x3B6A, bytearray(b"00fe:00:1e.0\\0"), True)
for fd in container, group, device:
    out = (ctypes.c_long * 64)()
    print(call("fstatfs", fd, out), hex(out[0]), os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/{os.getpid()}/fd/{fd}"))
r, w = os.pipe()
print(os.readlink(f"/proc/self/fd/{r}")[:5])
print(os.readlink("/proc/self/fd/%d" % os.open(DEVICE + "/vendor", os.O_RDONLY)))
names = [os.readlink(str(group), dir_fd=os.open("/proc/self/fd", os.O_RDONLY))]
out = ctypes.create_string_buffer(6)
print(*names, libc.readlink(f"/proc/self/fd/{device}".encode(), out, 5), out.value.decode())
"""
    assert said(connected, code) == [
        f"0 {TMPFS:#x} /dev/vfio/vfio /dev/vfio/vfio",
        f"0 {TMPFS:#x} {NODE} {NODE}",
        f"0 {ANON:#x} anon_inode:[vfio-device] anon_inode:[vfio-device]",
        "pipe:",
        f"/sys/devices/pci00fe:00/{BDF}/vendor",
        f"{NODE} 5 anon_",
    ]


def test_sizes_are_those_of_sysfs(connected):
    code = """
for path in "/sys", "/sys/class", DEVICE, DEVICE + "/vendor", "/sys/module/vfio/refcnt":
    fd = os.open(path, os.O_RDONLY)
    by_path, by_fd, link = os.stat(path), os.fstat(fd), os.lstat(path)
    print(by_path.st_size, by_fd.st_size, link.st_size, by_path.st_blocks, by_path == by_fd, by_path.st_dev == os.stat("/sys/kernel").st_dev)
"""
    directory, file = "0 0 0 0 True True", "4096 4096 4096 0 True True"
    assert said(connected, code) == [directory, directory, directory, file, file]


class TestOwners:
    @pytest.mark.parametrize("path", ["NODE", "DEVICE + '/vendor'", "DEVICE", "'/dev/vfio/vfio'"])
    def test_what_is_set_is_seen(self, connected, path):
        code = f"""
path = {path}
before = os.stat(path)
def show(status): return f"{{status.st_mode & 0o7777:o}} {{status.st_uid}}:{{status.st_gid}}"
os.chmod(path, 0o755); os.chown(path, 107, 64055)
print(show(os.stat(path)), os.stat(path).st_mode & ~0o7777 == before.st_mode & ~0o7777)
fd = os.open(path, os.O_RDONLY | (os.O_PATH if path == "/dev/vfio/vfio" else 0)) if os.path.isfile(path) or os.path.isdir(path) else os.open("/dev/vfio", os.O_PATH)
os.chown(path, -1, 5); print(show(os.stat(path)))
os.chown(os.path.basename(path), 8, -1, dir_fd=os.open(os.path.dirname(path), os.O_RDONLY)); print(show(os.stat(path)))
os.utime(path, (5, 6)); print(os.stat(path).st_mtime)
print(call("fchmodat", -100, path, 0o700, 0), call("lchown", path, 3, 4), show(os.stat(path)))
os.chmod(path, before.st_mode & 0o7777); os.chown(path, before.st_uid, before.st_gid)
print(show(os.stat(path)) == show(before))
"""
        path_is_link = path == "DEVICE"
        assert said(connected, code) == [
            "755 107:64055 True",
            "755 107:5",
            "755 8:5",
            "6.0",
            f"0 0 700 {'8:5' if path_is_link else '3:4'}",
            "True",
        ]

    def test_by_fds(self, connected):
        code = """
for fd in os.open(NODE, os.O_RDWR), os.open(DEVICE + "/config", os.O_RDWR), os.open("/dev/vfio/vfio", os.O_RDWR):
    before = os.fstat(fd)
    os.fchmod(fd, 0o640); os.fchown(fd, 11, 12)
    name = os.readlink(f"/proc/self/fd/{fd}")
    print(f"{os.stat(name).st_mode & 0o7777:o} {os.stat(name).st_uid}:{os.stat(name).st_gid}")
    os.fchmod(fd, before.st_mode & 0o7777); os.fchown(fd, before.st_uid, before.st_gid)
"""
        assert said(connected, code) == ["640 11:12"] * 3

    def test_it_is_seen_by_others_and_by_find(self, connected):
        """Another process, and every function that tells of it."""
        script = f"chown 31:32 {NODE}; stat -c %u:%g {NODE}; find /dev/vfio -uid 31; ls -ln {NODE} | cut -d' ' -f3,4"
        assert connected.output("sh", "-c", script).splitlines() == ["31:32", NODE, "31 32"]


REFUSED: list[tuple[str, list[str | int], str | int]] = [
    ("unlink", ["{file}"], "EPERM"),
    ("unlink", ["{node}"], "EPERM"),
    ("unlink", ["{missing}"], "ENOENT"),
    ("unlink", ["{directory}/driver"], "EPERM"),
    ("unlink", ["{directory}/vfio-dev"], "EISDIR"),
    ("rmdir", ["{directory}/vfio-dev"], "EPERM"),
    ("rmdir", ["{file}"], "ENOTDIR"),
    ("remove", ["{file}"], "EPERM"),
    ("remove", ["{directory}/vfio-dev"], "EPERM"),
    ("unlinkat", [-100, "{file}", 0], "EPERM"),
    ("rename", ["{file}", "{missing}"], "EPERM"),
    ("rename", ["{missing}", "{file}"], "ENOENT"),
    ("rename", ["{file}", "{elsewhere}"], "EXDEV"),
    ("rename", ["{here}", "{missing}"], "EXDEV"),
    ("renameat2", [-100, "{node}", -100, "{elsewhere}", 0], "EXDEV"),
    ("renameat", [-100, "{here}", -100, "{node}"], "EXDEV"),
    ("link", ["{file}", "{elsewhere}"], "EXDEV"),
    ("linkat", [-100, "{file}", -100, "{missing}", 0], "EPERM"),
    ("symlink", ["x", "{missing}"], "EPERM"),
    ("symlink", ["x", "{file}"], "EEXIST"),
    ("symlinkat", ["x", -100, "/dev/vfio/new"], "EPERM"),
    ("mkdir", ["{missing}", 0o755], "EPERM"),
    ("mkdir", ["{directory}", 0o755], "EEXIST"),
    ("mkdir", ["{missing}/deeper", 0o755], "ENOENT"),
    ("mkdirat", [-100, "/dev/vfio/new", 0o755], "EPERM"),
    ("mknod", ["/dev/vfio/99", 0o20600, 0x1FF00], "EPERM"),
    ("mkfifo", ["{missing}", 0o600], "EPERM"),
    ("truncate", ["{node}", 0], "EINVAL"),
    ("truncate", ["{directory}", 0], "EISDIR"),
    ("truncate", ["{missing}", 0], "ENOENT"),
    ("truncate", ["{directory}/config", 0], 0),
    ("setxattr", ["{file}", "user.a", "1", 1, 0], "ENOTSUP"),
    ("lsetxattr", ["{node}", "user.a", "1", 1, 0], "ENOTSUP"),
    ("removexattr", ["{file}", "user.a"], "ENOTSUP"),
]  # fmt: skip


def test_nobody_changes_what_is_there(connected, tmp_path):
    here = tmp_path / "here"
    here.write_text("stays\n")
    names = {
        "file": f"{DEVICE}/vendor",
        "directory": DEVICE,
        "missing": f"{DEVICE}/missing",
        "node": NODE,
        "here": str(here),
        "elsewhere": str(tmp_path / "elsewhere"),
    }
    wanted = [
        [name, *[word.format(**names) if isinstance(word, str) else word for word in words]]
        for name, words, _ in REFUSED
    ]
    found = said(connected, f"for words in {wanted!r}: print(words[0], call(*words))")
    assert found == [f"{name} {answer}" for name, _, answer in REFUSED]
    assert os.listdir(tmp_path) == ["here"]
    code = (
        f"print(open({DEVICE + '/vendor'!r}).read().strip(), len(open({DEVICE + '/config'!r}, 'rb').read()))"
    )
    assert said(connected, code) == ["0x1d0f 256"]


def test_fds_of_the_tree_cannot_be_cut(connected):
    code = """
fd = os.open(DEVICE + "/config", os.O_RDWR)
print(call("ftruncate", fd, 3), len(os.read(fd, 4096)), call("ftruncate", os.open(DEVICE + "/config", os.O_RDONLY), 3))
print(call("fsetxattr", fd, "user.a", "1", 1, 0), call("fremovexattr", fd, "user.a"))
"""
    assert said(connected, code) == ["0 256 EINVAL", "ENOTSUP ENOTSUP"]


def test_what_is_not_ours_is_as_it_was(connected, tmp_path):
    code = f"""
here = {str(tmp_path)!r}
os.mkdir(here + "/a"); open(here + "/a/b", "w").write("text"); os.chmod(here + "/a/b", 0o640)
os.symlink("b", here + "/a/c"); os.link(here + "/a/b", here + "/a/d"); os.rename(here + "/a/d", here + "/a/e")
os.truncate(here + "/a/e", 2); os.utime(here + "/a/b", (1, 2)); os.chown(here + "/a/b", -1, os.getgid())
os.mkfifo(here + "/a/f"); os.unlink(here + "/a/e"); os.remove(here + "/a/f")
status = os.stat(here + "/a/b")
print(oct(status.st_mode), status.st_size, status.st_mtime, sorted(os.listdir(here + "/a")))
for call in (lambda: os.rmdir(here + "/a"), lambda: os.unlink(here + "/x"), lambda: os.mkdir(here + "/a")):
    try: call()
    except OSError as error: print(errno.errorcode[error.errno])
"""
    assert said(connected, code) == ["0o100640 2 2.0 ['b', 'c']", "ENOTEMPTY", "ENOENT", "EEXIST"]
    assert sys.platform == "linux"
    assert errno.ENOTSUP == errno.EOPNOTSUPP
