# SPDX-License-Identifier: MIT
"""What programs are told of paths: by every libc function that tells something, and never where the tree is."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.run.helpers import HERE, compile_c, preloaded

GROUP = "/sys/kernel/iommu_groups/23"
BDF = "00fe:00:1e.0"
DEVICE = f"/sys/bus/pci/devices/{BDF}"
REAL = f"/sys/devices/pci00fe:00/{BDF}"
UUID = "00000000-0000-4000-8000-000000000021"
MDEV = f"/sys/bus/mdev/devices/{UUID}"
NODE = f"{stat.S_IFCHR | 0o600:o} 511:23"


@pytest.fixture(scope="module")
def many(daemon, looks):
    """Look at many things in one program: [(function, path, ...)] -> [output]."""
    environment = {**os.environ, **preloaded(daemon.directory)}

    def look(*wanted):
        lines = [" ".join([str(looks), *words]) + "; echo --" for words in wanted]
        output = subprocess.run(
            ["sh", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
        ).stdout
        assert str(daemon.directory) not in output
        return [part.strip("\n") for part in output.split("--\n")[:-1]]

    return look


STATS = ["stat", "lstat", "fstatat", "statx", "stat64", "lstat64", "fstatat64"]


def test_nodes_are_character_devices(many):
    found = many(*[(how, f"/dev/vfio/{node}") for how in STATS for node in ("vfio", "23")])
    assert found[::2] == [f"{stat.S_IFCHR | 0o666:o} 10:196"] * len(STATS)
    assert found[1::2] == [f"{stat.S_IFCHR | 0o600:o} 511:23"] * len(STATS)


def test_what_is_not_there_is_enoent(many):
    wanted = [
        "/dev/vfio/99",
        "/dev/vfio/devices",
        "/dev/iommu",
        f"{GROUP}/name",
        f"{DEVICE}/nothing",
        "/sys/nothing",
    ]
    for path in wanted:
        functions = [
            "stat",
            "lstat",
            "statx",
            "readlink",
            "realpath",
            "access",
            "fopen",
            "open",
            "opendir",
            "nftw",
        ]
        assert many(*[(how, path) for how in functions]) == ["ENOENT"] * len(functions), path


def test_directories_and_links(many):
    directory, link = f"{stat.S_IFDIR | 0o755:o} 0:0", f"{stat.S_IFLNK | 0o777:o} 0:0"
    for path in (DEVICE, f"{DEVICE}/iommu_group", MDEV, f"{MDEV}/subsystem"):
        follows = [how for how in STATS if not how.startswith("l")]
        assert many(*[(how, path) for how in follows]) == [directory] * len(follows)
        assert many(("lstat", path), ("lstat64", path), ("lstat", f"{path}/")) == [link, link, directory]


@pytest.mark.parametrize("how", ["readlink", "readlinkat", "__readlink_chk", "__readlinkat_chk"])
def test_links_are_those_of_sysfs(many, how):
    assert many((how, f"{DEVICE}/iommu_group"), (how, DEVICE), (how, f"{MDEV}/iommu_group")) == [
        "../../../kernel/iommu_groups/23",
        f"../../../devices/pci00fe:00/{BDF}",
        "../../../../../kernel/iommu_groups/21",
    ]


@pytest.mark.parametrize("how", ["realpath", "realpath_new", "__realpath_chk", "canonicalize_file_name"])
def test_real_paths_are_those_of_sysfs(many, how):
    wanted = {
        DEVICE: REAL,
        f"{DEVICE}/iommu_group": GROUP,
        f"{DEVICE}/subsystem": "/sys/bus/pci",
        f"{MDEV}/subsystem": "/sys/bus/mdev",  # this is how QEMU knows a mediated device
        f"{DEVICE}/driver": "/sys/bus/pci/drivers/vfio-pci",
        "/dev/vfio/23": "/dev/vfio/23",
        f"//sys//bus/./pci/devices/../devices/{BDF}/vendor": f"{REAL}/vendor",
        f"{GROUP}/devices/{BDF}/..": "/sys/devices/pci00fe:00",
        "/sys/../proc/self/status/../../self/stat": "ENOTDIR",
        "/proc/version": "/proc/version",
    }
    assert many(*[(how, path) for path in wanted]) == list(wanted.values())


@pytest.mark.parametrize("how", ["access", "faccessat", "eaccess", "euidaccess"])
def test_rights(many, how):
    assert many((how, "/dev/vfio/23"), (how, "/dev/vfio/vfio")) == ["yes", "yes"]
    (read_only,) = many((how, f"{DEVICE}/vendor"))
    assert read_only == ("yes" if os.geteuid() == 0 else "EACCES")


@pytest.mark.parametrize(
    "how", ["fopen", "fopen64", "freopen", "freopen64", "open", "openat", "__open_2", "openat_root"]
)
def test_contents(many, how):
    version = Path("/proc/version").read_text(encoding="ascii").strip()
    assert many(
        (how, f"{DEVICE}/vendor"),
        (how, f"{DEVICE}/iommu_group/devices/{BDF}/driver/../vfio-pci/module/refcnt"),
    ) == [
        "0x1d0f",
        "0",
    ]
    assert many((how, "/proc/version")) == [version]


@pytest.mark.parametrize(
    "how", ["opendir", "readdir64", "readdir_r", "fdopendir", "seekdir", "telldir", "scandir", "scandirat"]
)
def test_listings_have_what_is_ours_and_what_is_real_once(many, how):
    real = set(os.listdir("/sys/bus/pci/devices")) if Path("/sys/bus/pci/devices").is_dir() else set()
    times = 1 if how.startswith("scandir") or how == "telldir" else 2
    dots = [] if how.startswith("scandir") else [".", ".."]
    found = many((how, "/sys/bus/pci/devices"), (how, "/dev/vfio"), (how, f"{GROUP}/devices"))
    assert sorted(found[0].splitlines()) == sorted([*dots, *(real | {BDF})] * times)
    assert sorted(found[1].splitlines()) == sorted([*dots, "vfio", "21", "22", "23"] * times)
    assert sorted(found[2].splitlines()) == sorted([*dots, BDF] * times)


@pytest.mark.parametrize("how", ["creat", "O_CREAT", "openat2", "fopen_new"])
def test_nobody_makes_files_in_sysfs(many, how):
    """A shell that writes to what is not there (new_id, unbind) is told so, and leaves nothing behind."""
    directory = f"{GROUP}/nowhere"
    assert many((how, f"{DEVICE}/made"), (how, f"{GROUP}/made"), (how, f"{directory}/made")) == [
        "EACCES",
        "EACCES",
        "ENOENT",
    ]
    assert many(("access", f"{DEVICE}/made"), ("access", f"{GROUP}/made")) == ["ENOENT", "ENOENT"]


def test_what_is_opened_for_writing_keeps_its_value(connected):
    """A config space is opened so to change a word of it; what is read-only is so for root, too."""
    file, size = f"{DEVICE}/config", 256
    script = f"""
        : >>{file}; : 1<>{file}; : >{file}; printf '\\017' >>{file}; wc -c <{file}
        (: >>{DEVICE}/vendor) 2>&1 | grep -o 'Permission denied'; cat {DEVICE}/vendor
        limit=/sys/module/vfio_iommu_type1/parameters/dma_entry_limit
        echo 100 >$limit; cat $limit; echo 20 >>$limit; cat $limit; echo 65535 >$limit
    """
    assert connected.output("sh", "-c", script).splitlines() == [
        str(size),
        "Permission denied",
        "0x1d0f",
        "100",
        "20",
    ]
    code = f"""
import ctypes
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
print(libc.fopen(b"{file}", b"wx"), libc.fopen(b"/dev/vfio/vfio", b"w+x"))
for mode in b"w", b"a+", b"we", b"r+":
    file = libc.fopen(b"{file}", mode)
    print(bool(file), len(open("{file}", "rb").read()), bool(libc.fopen(b"{DEVICE}/vendor", mode)))
"""
    assert connected.python(code).splitlines() == ["None None", *[f"True {size} False"] * 4]


def test_paths_that_go_up_from_elsewhere(many):
    up = "../" * 30
    assert many(
        ("lstat", f"{up}dev/vfio/23"),
        ("openat", f"{up}/sys/../dev/../{DEVICE}/vendor"),
        ("openat", f"../../{DEVICE}/vendor", "/proc/self"),
        ("openat", "self/../version", "/proc"),
        ("fstatat", "vfio/23", "/dev"),
        ("fstatat", "dev/vfio/23", "/"),
    ) == [
        NODE,
        "0x1d0f",
        "0x1d0f",
        Path("/proc/version").read_text(encoding="ascii").strip(),
        NODE,
        NODE,
    ]


def test_a_path_is_opened_without_its_device(many):
    assert many(("O_PATH", "/dev/vfio/23"), ("O_PATH", f"{DEVICE}/config"), ("O_PATH", "/dev/vfio/99")) == [
        "yes",
        "yes",
        "ENOENT",
    ]


def test_a_node_is_no_directory(many):
    assert many(
        ("O_DIRECTORY", "/dev/vfio/23"), ("O_DIRECTORY", "/dev/vfio/99"), ("O_DIRECTORY", "/dev/vfio")
    ) == [
        "ENOTDIR",
        "ENOENT",
        "yes",
    ]


def test_patterns(many):
    assert many(
        ("glob", "'/sys/kernel/iommu_groups/2[13]/devices/*/iommu_group'"),
        ("glob", "'/dev/vfio/*'"),
        ("glob", "'/sys/bus/mdev/devices/*/nothing'"),
        ("glob", "'/proc/versio*'"),
    ) == [
        f"/sys/kernel/iommu_groups/21/devices/{UUID}/iommu_group\n{GROUP}/devices/{BDF}/iommu_group",
        "/dev/vfio/21\n/dev/vfio/22\n/dev/vfio/23\n/dev/vfio/vfio",
        "nothing",
        "/proc/version",
    ]


def test_walks(many):
    (found,) = many(("nftw", GROUP))
    assert sorted(found.splitlines()) == [
        f"{GROUP} 1 0",
        f"{GROUP}/devices 1 1",
        f"{GROUP}/devices/{BDF} 4 2",
        f"{GROUP}/reserved_regions 0 1",
        f"{GROUP}/type 0 1",
    ]


def test_walks_that_skip(many):
    """What one is not to be gone into, or not beyond, is said of it alone: of a file, and of all of it, too."""
    skipped, all_skipped = many(("nftw_skip", GROUP), ("nftw_skip_all", GROUP))
    assert sorted(skipped.splitlines()) == [
        f"{GROUP} 1 0",
        f"{GROUP}/devices 1 1",
        f"{GROUP}/reserved_regions 0 1",
        f"{GROUP}/type 0 1",
        "0",
    ]
    assert all_skipped.splitlines() == [f"{GROUP} 1 0", "0"]


@pytest.mark.parametrize("how", ["chdir", "fchdir", "getcwd_new", "get_current_dir_name", "__getcwd_chk"])
def test_the_working_directory(many, how):
    assert many((how, DEVICE), (how, "/dev/vfio"), (how, "/proc"), (how, f"{DEVICE}/nothing")) == [
        f"{REAL}\n/sys/devices/pci00fe:00",
        "/dev/vfio\n/dev",
        "/proc\n/",
        "ENOENT",
    ]


def test_attributes(many):
    assert many(("getxattr", "/dev/vfio/23"))[0] in ("ENODATA", "EOPNOTSUPP")
    assert many(("getxattr", "/dev/vfio/99"), ("llistxattr", f"{DEVICE}/nothing")) == ["ENOENT", "ENOENT"]


@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)]
)
def test_links_are_followed_alike_by_libc_and_by_hand(connected, seed):
    *differences, last = connected.output(sys.executable, HERE / "agree.py", seed, 3000).splitlines()
    assert differences == []
    assert int(last.split()[0]) > 100


def test_relative_paths(many):
    assert many(
        ("openat", f"{BDF}/vendor", "/sys/bus/pci/devices"),
        ("fstatat", "23", "/dev/vfio"),
        ("readlinkat", "iommu_group", DEVICE),
        ("openat", "../proc/version", "/sys"),
        ("openat", "status", "/proc/self"),
    )[:3] == ["0x1d0f", f"{stat.S_IFCHR | 0o600:o} 511:23", "../../../kernel/iommu_groups/23"]


def test_a_shell_walks_about(connected):
    """Relative paths, from where a program has gone to; of a child too, that begins there."""
    script = f"""
        cd {DEVICE}; pwd; /bin/pwd; cat vendor ../{BDF}/device; cat iommu_group/reserved_regions | wc -l
        cd /; test -c dev/vfio/vfio && echo node; cat proc/version | wc -l; cat sys/kernel/iommu_groups/23/devices/*/class
        cd /dev; test -c vfio/23 && echo node; test -e vfio/7 || echo none; cd vfio; ls | tr '\\n' ' '
    """
    assert connected.output("sh", "-c", script).splitlines() == [
        DEVICE,
        REAL,
        "0x1d0f",
        "0x0d1e",
        "0",
        "node",
        "1",
        "0x000000",
        "node",
        "none",
        "21 22 23 vfio ",
    ]


def test_the_real_system_stays_visible(connected):
    """Of what is not emulated, a program sees what it would see without us."""
    script = "for d in /sys /sys/bus /sys/class /sys/devices /sys/kernel /sys/module /dev; do ls $d; done; "
    script += "cat /sys/kernel/mm/transparent_hugepage/enabled /sys/../etc/passwd; ls /sys/bus/*/drivers/ /sys/class/net/"
    real = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    shown = connected("sh", "-c", script).stdout.splitlines()
    assert set(real) - {line for line in real if re.match("total|.*(vfio|mdev|iommu)", line)} <= set(shown)


def test_devices_that_come_and_go_are_seen(daemon, connected):
    uuid = "5c1d3a52-8e0b-4f41-9a6e-7b7b4cf5ff01"
    look = f"ls /sys/bus/mdev/devices /dev/vfio; cat /sys/bus/mdev/devices/{uuid}/mdev_type/name"
    before = connected("sh", "-c", look).stdout
    made = daemon.ask("mdev-start", type="oracle", uuid=uuid, options={"variant": "basic"})
    during = connected("sh", "-c", look).stdout
    daemon.ask("mdev-stop", uuid=uuid)
    after = connected("sh", "-c", look).stdout
    assert uuid in during
    assert str(made["group"]) in during.split()
    assert during.endswith("oracle\n")
    assert before == after
    assert uuid not in before


def test_names_need_little_stack(connected, tmp_path):
    program = compile_c(HERE / "small.c", tmp_path / "small", "-pthread")

    assert connected.output(program, "/dev/vfio/23", DEVICE) == "ok\n"


def test_a_thread_sanitizer_sees_no_race_in_the_library(connected, tmp_path):
    try:
        program = compile_c(HERE / "watched.c", tmp_path / "watched", "-fsanitize=thread", "-pthread")
        subprocess.run([program], check=True, capture_output=True, timeout=60)
    except subprocess.CalledProcessError:
        pytest.skip("there is no ThreadSanitizer that runs here")

    assert connected.output(program) == "ok\n"
