# SPDX-License-Identifier: MIT
"""Tools from elsewhere that look at devices in /sys and bind them; each test skips where its tool is not installed."""

import os
import pwd
import shlex
import shutil

import pytest

from tests.system.run.helpers import Runner, short_directory
from vfioemu.testing.daemon import daemon_process

BDF = "00fe:03:00.0"
UUID = "11111111-2222-4333-8444-555555555555"
MACHINE = (
    "[[group]]\nnumber = 31\n[group.iommu]\n[[group.device]]\n"
    f'symbol = "a"\nname = "{BDF}"\nmodel = "e1000e"\n'
)
PLACES = os.pathsep.join([os.environ["PATH"], "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""An ordinary user has no sbin in PATH, and may start what is there."""
DEVICE = f"/sys/bus/pci/devices/{BDF}"


@pytest.fixture
def tool(request):
    """Run shell lines in which these tools are used: what they print, and at the end each line's exit status."""
    missing = [name for name in request.param if not shutil.which(name, path=PLACES)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with daemon_process(MACHINE) as running:
        runner = Runner("--connect", str(running.directory))

        def run(*lines):
            script = f"PATH={shlex.quote(PLACES)}\nexport PATH\n" + "".join(
                f"{line}\necho status=$?\n" for line in lines
            )
            return runner.output("sh", "-c", script)

        yield run
        assert running.ask("stats")["internal_errors"] == 0, running.log()


def tools(*names):
    return pytest.mark.parametrize("tool", [names], indirect=True, ids=[names[0]])


def statuses(output):
    return [int(line.partition("=")[2]) for line in output.splitlines() if line.startswith("status=")]


@tools("lspci", "setpci")
def test_pciutils(tool):
    found = tool(
        f"lspci -s {BDF} -vvv",
        f"setpci -s {BDF} COMMAND=0146; setpci -s {BDF} COMMAND",
        f"lspci -D -s {BDF} -xxxx | wc -l",
    )
    assert statuses(found) == [0, 0, 0]
    assert "Kernel driver in use: vfio-pci" in found
    assert "Region 2: I/O ports at e080 [size=32]" in found
    assert "\n0106\n" in found  # what the hardware lets be set
    assert int(found.splitlines()[-2]) == 258  # all 4096 bytes, 16 a line


@tools("udevadm")
def test_udev(tool):
    found = tool(
        f"udevadm info -q property {DEVICE}",
        "udevadm info -q path -n /dev/vfio/31",
        "udevadm info -q property /sys/class/mdev_bus/vfioemu",
        f"udevadm trigger --dry-run --verbose --subsystem-match=pci | grep -c {BDF}",
        "udevadm trigger --subsystem-match=vfio",
        f"udevadm test-builtin path_id {DEVICE} 2>/dev/null || :",
    )
    assert statuses(found) == [0] * 6
    assert "DRIVER=vfio-pci" in found
    assert f"PCI_SLOT_NAME={BDF}" in found
    assert "/devices/virtual/vfio/31" in found


@tools("driverctl", "udevadm")
def test_driverctl(tool):
    found = tool(
        "driverctl list-devices",
        "driverctl list-overrides",
        f"driverctl --nosave set-override {BDF} vfio-pci",
        f"readlink {DEVICE}/driver",
        f"driverctl --nosave --noprobe unset-override {BDF}; cat {DEVICE}/driver_override",
        f"driverctl --nosave set-override {BDF} vfio-pci; cat {DEVICE}/driver_override; ls /dev/vfio",
    )
    assert statuses(found)[:4] == [0] * 4
    assert found.splitlines().count(f"{BDF} vfio-pci") == 1
    assert "(null)\n" in found
    assert found.splitlines()[-4:] == ["vfio-pci", "31", "vfio", "status=0"]


@tools("dpdk-devbind.py", "lspci", "ip")
def test_devbind(tool):
    seen = f"dpdk-devbind.py -s 2>/dev/null | grep {BDF}"
    found = tool(
        f"dpdk-devbind.py -b vfio-pci {BDF} 2>/dev/null",
        seen,
        f"dpdk-devbind.py -u {BDF} 2>/dev/null",
        seen,
        f"dpdk-devbind.py -b vfio-pci {BDF} 2>/dev/null",
        seen,
    )
    assert statuses(found) == [0] * 6
    shown = [line for line in found.splitlines() if line.startswith(BDF)]
    assert ["drv=vfio-pci" in line for line in shown] == [True, False, True]


@tools("mdevctl")
def test_mdevctl(tool):
    kind = "vfioemu-mtty"
    found = tool(
        "mdevctl types",
        f"mdevctl start -u {UUID} -p vfioemu -t {kind}",
        "mdevctl list",
        f"mdevctl start -u {UUID} -p vfioemu -t {kind} 2>/dev/null",
        f"mdevctl stop -u {UUID}",
        "mdevctl list",
    )
    codes = statuses(found)
    assert codes[:3] == [0, 0, 0]
    assert codes[3]
    assert codes[4:] == [0, 0]
    assert f"  {kind}\n    Available instances: 1024\n    Device API: vfio-pci\n" in found
    assert found.count(f"{UUID} vfioemu {kind}") == 1


CONFIG = """
unix_sock_dir = "{0}"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
"""
LIBVIRT = """
libvirtd -f {0}/conf -p {0}/pid >{0}/log 2>&1 &
daemon=$!
ask() {{ virsh -q -c 'qemu:///system?socket={0}/libvirt-sock' "$@"; }}
tries=0
until ask nodedev-list >{0}/list 2>/dev/null; do
    kill -0 $daemon || exit 9; tries=$((tries + 1)); test $tries -lt 300 || exit 8; sleep 0.1
done
cat {0}/list
ask nodedev-dumpxml pci_00fe_03_00_0
ask nodedev-dumpxml $(ask nodedev-list --cap mdev)
for what in detach reset reattach detach; do ask nodedev-$what pci_00fe_03_00_0 || echo failed; done
readlink {1}/driver
kill $daemon
wait $daemon 2>/dev/null
"""


@tools("libvirtd", "virsh", "mdevctl")
def test_libvirt(tool):
    """Its node device driver: through libudev, which wants /sys to be sysfs."""
    if os.geteuid() != 0:
        pytest.skip("needs root: libvirtd of the system")
    try:
        pwd.getpwnam("libvirt-qemu")
    except KeyError:
        pytest.skip("there is no user libvirt-qemu, without whom libvirtd does not start")
    with short_directory() as directory:  # a socket's name is short
        (directory / "conf").write_text(CONFIG.format(directory), encoding="ascii")
        found = tool(f"mdevctl start -u {UUID} -p vfioemu -t vfioemu-mtty", LIBVIRT.format(directory, DEVICE))
    assert "failed" not in found
    assert "pci_00fe_03_00_0\n" in found
    assert "<iommuGroup number='31'>" in found
    assert f"<uuid>{UUID}</uuid>" in found
    assert "<type id='vfioemu-mtty'/>" in found
    assert "../../../bus/pci/drivers/vfio-pci\n" in found
