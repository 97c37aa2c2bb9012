# SPDX-License-Identifier: MIT
"""Files in /sys that the daemon answers: config, bind, reset and their kin, by every way in which programs write."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.system.run.helpers import Runner
from vfioemu.core.base.errors import IoctlError
from vfioemu.daemon.attributes import unsigned
from vfioemu.testing.daemon import daemon_process

BDF, OTHER = "00fe:03:00.0", "00fe:04:00.0"
UUID = "11111111-2222-4333-8444-555555555555"
MACHINE = "".join(
    f'[[group]]\nnumber = {number}\n[group.iommu]\n[[group.device]]\nsymbol = "{symbol}"\nname = "{name}"\nmodel = "e1000e"\n'
    for number, symbol, name in ((31, "a", BDF), (32, "b", OTHER))
)
DEVICE = f"/sys/bus/pci/devices/{BDF}"
DRIVER = "/sys/bus/pci/drivers/vfio-pci"
TYPE = "/sys/class/mdev_bus/vfioemu/mdev_supported_types/vfioemu-mtty"
PRELUDE = f"""
import errno, fcntl, mmap, os, struct
BDF, OTHER, DEVICE, DRIVER = {BDF!r}, {OTHER!r}, {DEVICE!r}, {DRIVER!r}
CONFIG = 7 << 40
def store(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text.encode())
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(fd)
def load(path):
    with open(path) as file: return file.read().strip()
def open_device(group=31, name=BDF):
    global container, node
    container, node = os.open("/dev/vfio/vfio", os.O_RDWR), os.open(f"/dev/vfio/{{group}}", os.O_RDWR)
    fcntl.ioctl(node, 0x3B68, struct.pack("i", container)); fcntl.ioctl(container, 0x3B66, 1)
    return fcntl.ioctl(node, 0x3B6A, bytearray(name.encode() + b"\\0"), True)
"""


@pytest.fixture
def machine():
    """A daemon with two PCI functions, for one test: what is bound and removed stays so."""
    with daemon_process(MACHINE) as running:
        yield Runner("--connect", str(running.directory))
        assert running.ask("stats")["internal_errors"] == 0, running.log()


def said(machine, code):
    return machine.python(PRELUDE + code).splitlines()


WRITERS = {
    "dash": "dash -c 'echo {value} >{file}'",
    "bash": "bash -c 'echo {value} >{file}'",
    "bash printf": "bash -c 'printf %s {value} >{file}'",
    "bash append": "bash -c 'echo {value} >>{file}'",
    "echo": "env echo {value} >{file}",
    "printf": "env printf '%s\\n' {value} >{file}",
    "tee": "echo {value} | tee {file} >/dev/null",
    "dd": "echo {value} | dd of={file} status=none",
    "cat": "echo {value} | cat >{file}",
    "perl": """perl -e 'open(F, ">", $ARGV[1]) or die; print F $ARGV[0]; close(F) or exit 1' {value} {file}""",
    "awk": """awk 'BEGIN {{ print "{value}" > "{file}"; if (close("{file}")) exit 1 }}'""",
    "python": """python3 -c 'import sys; f = open(sys.argv[2], "w"); f.write(sys.argv[1]); f.close()' {value} {file}""",
    "a stream without its close": "env -u x bash -c 'exec 9>{file} && echo {value} >&9'",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_to_write(connected, writer):
    """A value that is taken is there; one that is refused is an error for who wrote it, wherever libc has its hands in."""
    line = WRITERS[writer]
    tool = line.split()[0] if line.split()[0] in ("bash", "perl", "awk", "dash") else "sh"
    if not shutil.which(tool):
        pytest.skip(f"there is no {tool}")
    limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    good, bad = (line.format(value=value, file=limit) for value in ("1234", "-nonsense"))
    script = f"{good}; echo $?; cat {limit}; {bad} 2>/dev/null; echo $?; cat {limit}; echo 65535 >{limit}; cat {limit}"
    status, value, failure, same, last = connected.output("sh", "-c", script).split()
    assert (status, value, same, last) == ("0", "1234", "1234", "65535")
    if writer != "awk":  # mawk looks at no result
        assert failure != "0"


def test_numbers_are_the_kernels(connected):
    code = """
file = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
for text in "17", "0x10\\n", "010", "4294967295", "0\\n", "", "x", "-1", "4294967296", "1.5", "09", " 5", "1_0":
    print(store(file, text), load(file))
store(file, "65535")
"""
    assert said(connected, code) == [
        "2 17",
        "5 16",
        "3 8",
        "10 4294967295",
        "2 0",
        "0 0",
        *["EINVAL 0"] * 2,
        "ERANGE 0",
        *["EINVAL 0"] * 4,
    ]


class TestConfig:
    def test_vfio_and_sysfs_see_one_function(self, machine):
        """COMMAND is the hardware's on both sides; a BAR is virtual for user space."""
        code = """
device = open_device()
def both(position, size): return os.pread(device, size, CONFIG + position).hex(), os.pread(config, size, position).hex()
config = os.open(DEVICE + "/config", os.O_RDWR)
print(*both(4, 2)); os.pwrite(device, b"\\x07\\x01", CONFIG + 4); print(*both(4, 2))
print(os.pwrite(config, b"\\0\\0", 4), *both(4, 2))
os.pwrite(device, b"\\xff" * 4, CONFIG + 0x10); print(*both(0x10, 4))
print(os.pwrite(config, b"\\x34\\x12", 0), *both(0, 2), os.pwrite(config, b"", 0))
"""
        assert said(machine, code) == [
            "0301 0301",
            "0701 0701",
            "2 0000 0000",
            "0000feff 0000b4fe",
            "2 8680 8680 0",
        ]

    def test_positions(self, machine):
        code = """
config = os.open(DEVICE + "/config", os.O_RDWR)
print(os.read(config, 2).hex(), os.read(config, 2).hex(), os.lseek(config, 0, os.SEEK_CUR))
print(os.lseek(config, 4, 0), os.write(config, b"\\x07"), os.write(config, b"\\0"), os.lseek(config, 0, os.SEEK_CUR))
print(os.pread(config, 2, 4).hex(), len(os.pread(config, 9999, 0)), os.pread(config, 9, 4095).hex(), os.pread(config, 9, 4096))
print(len(open(DEVICE + "/config", "rb").read()), os.preadv(config, [bytearray(2), bytearray(2)], 0), os.stat(DEVICE + "/config").st_size)
read_only = os.open(DEVICE + "/config", os.O_RDONLY)
for call in lambda: os.write(read_only, b"x"), lambda: os.read(os.open(DRIVER + "/bind", os.O_WRONLY), 1), lambda: os.open(DRIVER + "/bind", os.O_RDONLY):
    try: call()
    except OSError as error: print(errno.errorcode[error.errno])
"""
        assert said(machine, code) == [
            "8680 d310 4",
            "4 1 1 6",
            "0700 4096 00 b''",
            "4096 4 4096",
            "EBADF",
            "EBADF",
            "EACCES",
        ]

    def test_streams_see_it_too(self, machine):
        script = f"printf '\\007\\000' | dd of={DEVICE}/config bs=1 seek=4 conv=notrunc status=none; od -An -tx1 -j4 -N2 {DEVICE}/config; od -An -tx1 -j4 -N2 <{DEVICE}/config"
        assert machine.output("sh", "-c", script).split() == ["07", "00"] * 2

    def test_no_two_functions_decode_the_same(self, machine):
        code = """
taken = []
for name in BDF, OTHER:
    path = f"/sys/bus/pci/devices/{name}"
    config = open(path + "/config", "rb").read()
    for index, line in enumerate(open(path + "/resource")):
        start, end, flags = (int(word, 16) for word in line.split())
        if not end: continue
        value = int.from_bytes(config[0x30 if index == 6 else 0x10 + 4 * index:][:4], "little")
        assert value & (~3 if flags & 0x100 else ~0xF) & 0xFFFFFFFF == start, (name, index)
        assert not start % (end - start + 1)
        assert os.stat(path + ("/rom" if index == 6 else f"/resource{index}")).st_size == end - start + 1
        assert end < 0x10000 or not flags & 0x100
        taken.append((flags & 0x100, start, end))
taken.sort()
assert all(a[0] != b[0] or a[2] < b[1] for a, b in zip(taken, taken[1:])), taken
print(len(taken))
"""
        assert said(machine, code) == ["10"]


class TestBinding:
    def test_what_is_bound_stays_so(self, machine):
        code = """
print(store(DRIVER + "/bind", BDF), store("/sys/bus/pci/drivers_probe", BDF + "\\n"), store(DEVICE + "/driver_override", "vfio-pci\\n"))
print(load(DEVICE + "/driver_override"), os.path.basename(os.readlink(DEVICE + "/driver")), load(DEVICE + "/enable"))
print(store(DRIVER + "/bind", "00fe:09:09.0"), store(DRIVER + "/unbind", "nonsense"), store(DRIVER + "/new_id", "8086"), store(DEVICE + "/enable", "0"))
"""
        assert said(machine, code) == ["EBUSY 13 9", "vfio-pci vfio-pci 1", "ENODEV ENODEV EINVAL EBUSY"]

    def test_unbound_and_bound_again(self, machine):
        code = """
def seen(): return os.path.exists("/dev/vfio/31"), os.path.lexists(DEVICE + "/driver"), os.path.exists(DEVICE + "/vfio-dev"), "DRIVER" in load(DEVICE + "/uevent"), os.path.exists("/sys/kernel/iommu_groups/31/devices/" + BDF), BDF in os.listdir(DRIVER)
print(*seen()); print(store(DRIVER + "/unbind", BDF), *seen())
try: os.open("/dev/vfio/31", os.O_RDWR)
except OSError as error: print(errno.errorcode[error.errno])
print(store(DRIVER + "/unbind", BDF), store(DEVICE + "/enable", "1"), load(DEVICE + "/enable"))
print(store("/sys/bus/pci/drivers_probe", BDF), *seen())
device = open_device(); print(os.pread(device, 2, CONFIG).hex())
print(store(DRIVER + "/unbind", BDF))
os.close(device); os.close(node); os.close(container)
print(store(DEVICE + "/driver_override", "other\\n"), store(DRIVER + "/unbind", BDF), store(DRIVER + "/bind", BDF), store("/sys/bus/pci/drivers_probe", BDF), *seen())
print(store(DEVICE + "/driver_override", "\\n"), load(DEVICE + "/driver_override"), store(DRIVER + "/bind", BDF))
print(store(DRIVER + "/new_id", "8086 10d3\\n"), *seen(), store(DRIVER + "/new_id", "8086 10d3"), store(DRIVER + "/remove_id", "8086 10d3"), store(DRIVER + "/remove_id", "8086 10d3"))
"""
        yes, no = "True True True True True True", "False False False False True False"
        assert said(machine, code) == [
            yes,
            f"12 {no}",
            "ENOENT",
            "ENODEV 1 1",
            f"12 {yes}",
            "8680",
            "EBUSY",
            f"6 12 ENODEV 12 {no}",
            "1 (null) ENODEV",
            f"10 {yes} EEXIST 9 ENODEV",
        ]

    def test_removed_and_found_again(self, machine):
        code = """
print(store(DEVICE + "/remove", "1"), os.path.exists(DEVICE), os.path.exists("/sys/kernel/iommu_groups/31"), BDF in os.listdir("/sys/bus/pci/devices"))
print(store("/sys/bus/pci/rescan", "1\\n"), load(DEVICE + "/vendor"), os.path.exists(DEVICE + "/driver"), load(DEVICE + "/driver_override"))
print(store(DEVICE + "/driver_override", "vfio-pci"), store(DRIVER + "/bind", BDF), os.pread(open_device(), 2, CONFIG).hex())
print(store(DEVICE + "/remove", "1"), os.path.exists(DEVICE))
"""
        assert said(machine, code) == [
            "1 False False False",
            "2 0x8086 False (null)",
            "8 12 8680",
            "EBUSY True",
        ]

    def test_nothing_of_ours_reaches_the_machine(self, machine):
        """Other drivers' files are ours as far as they can name an emulated function."""
        real = Path("/sys/bus/pci/drivers")
        drivers = sorted(os.listdir(real)) if real.is_dir() else []
        code = f"""
for driver in {drivers!r}:
    for name in "bind", "unbind":
        path = f"/sys/bus/pci/drivers/{{driver}}/{{name}}"
        assert store(path, BDF) == "ENODEV", driver
        assert os.open(path, os.O_WRONLY) >= 0 and os.readlink(f"/proc/self/fd/{{os.open(path, os.O_WRONLY)}}") == path
print(sorted(os.listdir("/sys/bus/pci/drivers")) == sorted({{*{drivers!r}, "vfio-pci"}}))
"""
        code += "print(os.readlink('/proc/self/fd/%d' % os.open('/sys/bus/pci/drivers_probe', os.O_WRONLY)))"
        assert said(machine, code) == ["True", "/sys/bus/pci/drivers_probe"]


def test_what_is_about_the_machine_is_handed_on(machine):
    """To its own file, with the program's own rights: there is no such function there, if there is a bus at all."""
    code = """
print(store("/sys/bus/pci/drivers_probe", "ffff:ff:1f.7"), os.path.exists("/dev/vfio/31"))
"""
    answer, there = said(machine, code)[0].split()
    assert answer in ("ENODEV", "EACCES", "EPERM", "EROFS", "ENOENT")
    assert there == "True"


def test_other_files_of_a_function(machine):
    code = """
print(store(DEVICE + "/reset", "1"), store(DEVICE + "/reset", "2"), store(DEVICE + "/power/control", "auto\\n"), load(DEVICE + "/power/control"), store(DEVICE + "/power/control", "x"))
print(load(DEVICE + "/numa_node"), store(DEVICE + "/numa_node", "77"), load(DEVICE + "/irq"), load(DEVICE + "/local_cpus") != "")
rom = os.open(DEVICE + "/rom", os.O_RDWR)
try: os.read(rom, 2)
except OSError as error: print(errno.errorcode[error.errno])
print(os.write(rom, b"1"))
try: print(os.pread(rom, 2, 0).hex())
except OSError as error: print(errno.errorcode[error.errno])
ports = os.open(DEVICE + "/resource2", os.O_RDWR)
print(os.pwrite(ports, b"\\x34\\0\\0\\0", 0), os.pread(ports, 4, 0).hex())
memory = os.open(DEVICE + "/resource0", os.O_RDWR)
for call in lambda: os.pread(ports, 3, 0), lambda: os.pread(ports, 4, 32), lambda: os.pread(memory, 4, 0), lambda: mmap.mmap(ports, 32):
    try: print(call())
    except OSError as error: print(errno.errorcode[error.errno])
with mmap.mmap(memory, 0x20000) as view:
    view[0x100:0x104] = b"abcd"
with mmap.mmap(memory, 0x1000) as view:
    print(view[0x100:0x104])
print(load("/sys/kernel/iommu_groups/31/type"), store("/sys/kernel/iommu_groups/31/type", "identity"), store("/sys/kernel/iommu_groups/31/type", "x"))
"""
    found = said(machine, code)
    assert found[:3] == ["1 EINVAL 5 auto EINVAL", "-1 EINVAL 11 True", "EINVAL"]
    assert found[3:] == [
        "1",
        found[4],
        "4 34000000",
        "EINVAL",
        "EINVAL",
        "EIO",
        "ENODEV",
        "b'abcd'",
        "DMA EBUSY EINVAL",
    ]
    assert found[4] == "55aa" or found[4] == "EIO"


def test_an_fd_says_what_it_was_opened_for(machine):
    code = """
for mode in os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH:
    fd = os.open(DEVICE + "/config", mode)
    print(fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) == mode)
for mode in os.O_RDONLY, os.O_RDWR:
    memory = os.open(DEVICE + "/resource0", mode)
    for flags in mmap.MAP_SHARED, mmap.MAP_PRIVATE:
        try: print(len(mmap.mmap(memory, 4096, flags, mmap.PROT_READ | mmap.PROT_WRITE)))
        except OSError as error: print(errno.errorcode[error.errno])
"""
    assert said(machine, code) == ["True"] * 4 + ["EACCES", "4096", "4096", "4096"]


def test_a_mapping_in_the_place_of_a_vfio_mapping_lets_the_device_go(machine):
    code = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def map_at(address, flags, fd): return libc.mmap(address, 0x1000, mmap.PROT_READ, mmap.MAP_SHARED | flags, fd, 0)
def is_held():
    try: os.close(os.open("/dev/vfio/31", os.O_RDWR))
    except OSError as error: return errno.errorcode[error.errno]
device = open_device()
view = map_at(None, 0, device)
for fd in device, node, container: os.close(fd)
print(is_held(), map_at(view, 0x10, os.open(DEVICE + "/resource0", os.O_RDWR)) == view, is_held())
"""
    assert said(machine, code) == ["EBUSY True None"]


def test_copies_are_made_by_reading_and_writing(machine, tmp_path):
    script = f"""
        cp {DEVICE}/config {tmp_path}/config && stat -c %s {tmp_path}/config
        echo other >{tmp_path}/name && cp {tmp_path}/name {DEVICE}/driver_override && cat {DEVICE}/driver_override
    """
    assert machine.output("sh", "-c", script).split() == ["4096", "other"]
    code = """
live, plain = os.open(DEVICE + "/config", os.O_RDWR), os.open("/proc/version", os.O_RDONLY)
for pair in (live, live), (plain, live):
    try: os.copy_file_range(*pair, 4)
    except OSError as error: print(errno.errorcode[error.errno])
"""
    assert said(machine, code) == ["EXDEV", "EXDEV"]


def test_events_are_asked_for_and_change_nothing(machine):
    code = """
for path in DEVICE, "/sys/class/vfio/31", "/sys/class/misc/vfio", "/sys/class/mdev_bus/vfioemu":
    before = load(path + "/uevent")
    print(store(path + "/uevent", "change"), store(path + "/uevent", "add 11111111-2222-4333-8444-555555555555\\n"), store(path + "/uevent", "nonsense"), load(path + "/uevent") == before)
"""
    assert said(machine, code) == ["6 41 EINVAL True"] * 4


def test_no_file_of_the_tree_can_be_written_past_the_daemon(machine):
    """What is writable is live: else a program would leave its words in it."""
    code = """
import stat
root = os.environ["VFIOEMU_ROOT"]
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and mode & 0o222 and path.startswith(root + "/sys"):
            real = os.popen(f"LD_PRELOAD= stat -c %a {path}").read().strip()
            assert len(real) == 4 and int(real, 8) & 0o1000, (path, real)
print("all")
"""
    assert said(machine, code) == ["all"]


class TestMdevs:
    def test_made_and_removed(self, machine):
        script = f"""
            cat {TYPE}/available_instances {TYPE}/device_api; echo {UUID} >{TYPE}/create && echo made
            cat {TYPE}/available_instances; ls /sys/bus/mdev/devices {TYPE}/devices
            number=$(basename $(readlink /sys/bus/mdev/devices/{UUID}/iommu_group)); ls /dev/vfio | grep -cx $number
            echo {UUID} | tee {TYPE}/create 2>/dev/null >/dev/null || echo exists; cat /sys/kernel/iommu_groups/$number/name
            echo 0 >/sys/bus/mdev/devices/{UUID}/remove; ls /sys/bus/mdev/devices
            echo 1 >/sys/bus/mdev/devices/{UUID}/remove && echo removed; ls /sys/bus/mdev/devices; cat {TYPE}/available_instances
            echo nonsense | tee {TYPE}/create 2>/dev/null >/dev/null || echo refused
        """
        assert machine.output("sh", "-c", script).split("\n") == [
            "1024",
            "vfio-pci",
            "made",
            "1023",
            "/sys/bus/mdev/devices:",
            UUID,
            "",
            f"{TYPE}/devices:",
            UUID,
            "1",
            "exists",
            "vfio-noiommu",
            UUID,
            "removed",
            "1024",
            "refused",
            "",
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_who_has_no_right_is_refused(machine):
    """The daemon looks itself: a client can name any file."""
    directory = machine.options[1]
    os.chmod(directory, 0o711)
    code = """
fd = os.open(DRIVER + "/unbind", os.O_WRONLY); config = os.open(DEVICE + "/config", os.O_RDWR)
pid = os.fork()
if not pid:
    os.setresuid(4242, 4242, 4242)
    for call in lambda: os.write(fd, BDF.encode()), lambda: os.write(config, b"xx"):
        try: print(call())
        except OSError as error: print(errno.errorcode[error.errno], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(os.path.exists("/dev/vfio/31"))
"""
    assert said(machine, code)[-1] == "True"


def test_whoever_changes_the_mode_of_a_write_only_file_can_still_write_it_with_stdio(machine):
    """Its file has to stay readable for the library, which reads what libc has written."""
    (mode,) = said(
        machine,
        """
os.chmod(DEVICE + "/reset", 0o200)
print(oct(os.stat(DEVICE + "/reset").st_mode & 0o7777))
""",
    )
    assert mode == "0o200"
    (real,) = Path(machine.options[-1], "root").glob(f"sys/devices/*/{BDF}/reset")
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_is_written_ends_at_a_nul_and_nothing_is_nothing(machine):
    """As in kernfs; DPDK and others write the NUL of a C string, too."""
    assert said(
        machine,
        """
print(store(DRIVER + "/unbind", BDF + "\\0"), store(DRIVER + "/bind", BDF + "\\n\\0rest"), store(DRIVER + "/bind", BDF))
print(store(DEVICE + "/reset", ""), store(DEVICE + "/remove", ""), store(DRIVER + "/bind", ""), store(DRIVER + "/new_id", ""))
print(store(DEVICE + "/driver_override", "vfio-pci\\0"), load(DEVICE + "/driver_override"), os.path.exists(DEVICE))
print(store(DEVICE + "/reset", "0b1"), store(DEVICE + "/reset", "-0"), store(DEVICE + "/remove", str(1 << 64)))
config = os.open(DEVICE + "/config", os.O_RDWR)
for offset in 4095, 4096, 1 << 40:
    try: print(os.pwrite(config, b"xy", offset))
    except OSError as error: print(errno.errorcode[error.errno])
""",
    ) == ["13 18 EBUSY", "0 0 0 0", "9 vfio-pci True", "EINVAL EINVAL EINVAL", "1", "EFBIG", "EFBIG"]


@pytest.mark.parametrize(
    ("text", "bits", "answer"),
    [
        *[("0", 32, 0), ("+10\n", 32, 10), ("010", 32, 8), ("+010", 32, 8), ("0X1f", 32, 31), ("00", 32, 0)],
        *[
            ("4294967295", 32, (1 << 32) - 1),
            ("4294967296", 32, errno.ERANGE),
            ("9" * 4096, 32, errno.ERANGE),
        ],
        *[("4294967296", 64, 1 << 32), (str(1 << 64), 64, errno.EINVAL), ("", 32, errno.EINVAL)],
        *[
            (text, 32, errno.EINVAL)
            for text in (
                "\n",
                "-0",
                "-1",
                "0b1",
                "0o7",
                "08",
                "0x",
                "1 ",
                " 1",
                "1_0",
                "+",
                "1\n\n",
                "\u0661",
            )
        ],
    ],
)
def test_numbers_are_those_of_the_kernel(text, bits, answer):
    try:
        found = unsigned(text, bits)
    except IoctlError as error:
        found = error.errno
    assert found == answer
