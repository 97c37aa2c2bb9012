# SPDX-License-Identifier: MIT
"""Other ways to a file than its name: by links of /proc, as an entry of /dev, by a wildcard; and what watches one."""

WAYS = r"""
import ctypes, errno, glob, os, stat, struct, subprocess, fcntl

libc = ctypes.CDLL(None, use_errno=True)
sys_class, bus, device = os.open("/sys/class", os.O_PATH), os.open("/sys/bus", os.O_RDONLY), "pci/devices/00fe:00:1e.0"
own = f"/proc/{os.getpid()}"

# Through an fd of a directory, also to what is the system's own there.
for links in (f"/proc/self/fd/{sys_class}", f"/dev/fd/{sys_class}", f"{own}//fd/{sys_class}", f"/proc/thread-self/fd/{sys_class}"):
    assert os.path.exists(f"{links}/net/lo"), links
    assert sorted(os.listdir(f"{links}/net")) == sorted(os.listdir("/sys/class/net")), links
    assert sorted(os.listdir(links)) == sorted(os.listdir("/sys/class")), links
    assert open(f"{links}/../bus/{device}/vendor").read().startswith("0x"), links
assert open(f"/proc/self/fd/{bus}/{device}/vendor").read().startswith("0x")
assert os.path.isdir(f"/proc/self/fd/{bus}/cpu")
os.chdir("/sys/bus")
assert open(f"/proc/self/cwd/{device}/vendor").read() == open(f"/proc/self/root/sys/bus/{device}/vendor").read()
os.chdir("/dev")
os.close(os.open("/proc/self/cwd/vfio/vfio", os.O_RDWR))
os.chdir("/")

# A node is opened again by its fd; a device is not.
container = os.open("/dev/vfio/vfio", os.O_RDWR)
for fd in (container, os.open("/dev/vfio/vfio", os.O_PATH)):
    for link in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}"):
        again = os.open(link, os.O_RDWR)
        assert fcntl.ioctl(again, 0x3B64) == 0 and stat.S_ISCHR(os.stat(link).st_mode), link
        os.close(again)
opened = os.open("/dev/vfio/23", os.O_RDWR)
fcntl.ioctl(opened, 0x3B68, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 1)
fd = libc.ioctl(opened, 0x3B6A, b"00fe:00:1e.0\0")
for link, expected in ((f"/proc/self/fd/{opened}", errno.EBUSY), (f"/proc/self/fd/{fd}", errno.ENXIO)):
    try:
        os.open(link, os.O_RDWR)
    except OSError as error:
        assert error.errno == expected, (link, error)
    else:
        raise AssertionError(link)

# An entry of /dev, once.
os.chdir("/dev")
for names in (os.listdir("/dev"), os.listdir(), [entry.name for entry in os.scandir("/dev/")], os.listdir(os.open("/dev", os.O_RDONLY))):
    assert names.count("vfio") == 1 and names.count("null") == 1
assert "/dev/vfio/23" in glob.glob("/d*/vf*/*")
assert subprocess.check_output(["find", "/dev", "-maxdepth", "1", "-name", "vf*"], text=True) == "/dev/vfio\n"


class Glob(ctypes.Structure):
    _fields_ = [("count", ctypes.c_size_t), ("paths", ctypes.POINTER(ctypes.c_char_p)), ("rest", ctypes.c_char * 64)]


for pattern in (b"/dev/vf*/23", b"/d*/v*/[0-9]*", b"/{dev,sys}/vfio/23"):
    found = Glob()
    assert libc.glob(pattern, 1 << 10, None, ctypes.byref(found)) == 0, pattern
    assert b"/dev/vfio/23" in found.paths[: found.count], pattern

# What watches, and what is asked of a file system.
watch = libc.inotify_init1(os.O_CLOEXEC)
for path in (b"/dev/vfio", b"/dev/vfio/23", b"/sys/bus/pci/devices/00fe:00:1e.0"):
    assert libc.inotify_add_watch(watch, path, 0xFFF) > 0, path
    handle, mount = ctypes.create_string_buffer(struct.pack("I", 128), 200), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path, handle, ctypes.byref(mount), 0) == 0, path
    assert os.pathconf(path, "PC_NAME_MAX") == 255
assert libc.inotify_add_watch(watch, b"/sys/class/net", 0xFFF) > 0
assert libc.inotify_add_watch(watch, b"/dev/vfio/99", 0xFFF) < 0 and ctypes.get_errno() == errno.ENOENT
try:
    os.open("/sys/bus/pci", os.O_TMPFILE | os.O_RDWR)
except OSError as error:
    assert error.errno == errno.EOPNOTSUPP
else:
    raise AssertionError("a file in sysfs")
room = ctypes.create_string_buffer(256)
for flags, mask in ((0x8000000, 0x7FF), (0x6000, 0x7FF), (0, 0x80000000)):
    assert libc.statx(-100, b"/sys/bus/pci", flags, mask, room) < 0 and ctypes.get_errno() == errno.EINVAL
assert stat.S_IMODE(os.stat("/sys").st_mode) == stat.S_IMODE(os.stat("/sys/.").st_mode) == 0o555
print("ok")
"""


def test_other_ways_lead_there_too(connected):
    assert connected.python(WAYS) == "ok\n"
