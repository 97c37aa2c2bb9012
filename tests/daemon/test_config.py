# SPDX-License-Identifier: MIT
"""Machine files: what they say, and what is said about wrong ones."""

import pytest

from tests.releases import PROFILES
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon.arguments import DeviceError, parse_device, with_devices
from vfioemu.daemon.config import ConfigError, load_machine, parse_machine
from vfioemu.devices.registry import load_models, options

FULL = """
profile = "NEWEST"
quirks = "clean"
memlock = 1048576
dma-entry-limit = 10
[[group]]
number = 12
viable = false
[[group.device]]
symbol = "a"
name = "00000000-0000-4000-8000-000000000001"
model = "oracle"
[group.device.options]
variant = "basic"
[[group]]
number = 3
[group.iommu]
address-bits = 39
pgsizes = 0x1000
reserved = [[0xfee00000, 0xfeefffff]]
coherent = true
""".replace("NEWEST", NEWEST := [*PROFILES][-1])


def test_full_file():
    assert parse_machine(FULL) == MachineSpec(
        profile=NEWEST,
        quirks="clean",
        memlock=1 << 20,
        dma_entry_limit=10,
        groups=(
            GroupSpec(number=12, viable=False),
            GroupSpec(
                number=3,
                iommu=IommuSpec(
                    address_bits=39, pgsizes=0x1000, reserved=((0xFEE00000, 0xFEEFFFFF),), coherent=True
                ),
            ),
        ),
        devices=(
            DeviceSpec(
                symbol="a",
                name="00000000-0000-4000-8000-000000000001",
                group=12,
                model="oracle",
                options={"variant": "basic"},
            ),
        ),
    )


def test_empty_file_is_an_empty_machine():
    assert parse_machine("") == MachineSpec()


UUID = "abcdef00-0000-4000-8000-000000000001"
OTHER = "abcdef00-0000-4000-8000-000000000002"
GROUP = "[[group]]\nnumber = 1\n"
IOMMU = GROUP + "[group.iommu]\n"


def device(name, symbol="d", model="mtty", more=""):
    return f'[[group.device]]\nsymbol = "{symbol}"\nname = "{name}"\nmodel = "{model}"\n{more}'


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        ("x\ny = 1", 1, "", "expected"),
        ("profil = 'x'", 1, "profil", "no such key; did you mean profile?"),
        ("profile = 5", 1, "profile", "expected a string"),
        ("profile = 'linux-6.21'", 1, "profile", f"did you mean linux-6.12? ({', '.join(PROFILES)})"),
        ("quirks = 'none'", 1, "quirks", "expected one of clean, recorded"),
        ("memlock = 'some'", 1, "memlock", "some"),
        ("memlock = -1", 1, "memlock", "-1"),
        ("dma-entry-limit = -1", 1, "dma-entry-limit", "-1"),
        ("manual-clear = 'on'", 1, "manual-clear", "as-posted"),
        ("memlock = " + "9" * 5000, None, "", "digits"),
        ("[group]\nnumber = 1", 1, "group", "write [[group]], not [group]"),
        (GROUP + "[group.device]\nname = 'x'", 3, "group[0].device", "write [[group.device]]"),
        ("[[group]]\nnumber = -1", 2, "group[0].number", "-1"),
        ("[[group]]\nnumber = 2147483648", 2, "group[0].number", "2147483648"),
        ("[[group]]", 1, "group[0].number", "missing"),
        ("[[group]]\nnumber = 'x'", 2, "group[0].number", "expected an integer"),
        (GROUP + GROUP, 4, "group[1].number", "is used twice"),
        (IOMMU + "address_bits = 1", 4, "group[0].iommu.address_bits", "did you mean address-bits?"),
        (IOMMU + "address-bits = 1", 4, "group[0].iommu.address-bits", "address-bits"),
        (IOMMU + "reserved = [[2, 1]]", 4, "group[0].iommu.reserved", "reserved"),
        (GROUP + "[[group.device]]\nname = 'n'", 3, "group[0].device[0].symbol", "missing"),
        (
            GROUP + device("not-a-uuid"),
            5,
            "group[0].device[0].name",
            "neither a PCI address (0000:00:01.0) nor a UUID",
        ),
        (IOMMU + device("00:10.0"), 6, "group[0].device[0].name", "did you mean '0000:00:10.0'?"),
        (IOMMU + device("0000:00:20.0"), 6, "group[0].device[0].name", "neither"),
        (IOMMU + device("0000:00:10.8"), 6, "group[0].device[0].name", "neither"),
        *(
            (
                f"{GROUP}{device('0000:00:10.0', model=model)}",
                5,
                "group[0].device[0].name",
                "'0000:00:10.0' is a PCI function, which needs an IOMMU: group 1 has no [group.iommu]",
            )
            for model in ("edu", "e1000e", "nvme", "pci-testdev", "vfio-pci", "dma-engine", "mtty")
        ),
        (GROUP + device("0" * 32), 5, "group[0].device[0].name", "did you mean '00000000-0000-0000-0000-0"),
        (GROUP + device(UUID) + device(UUID.upper(), "e"), 9, "group[0].device[1].name", "same name"),
        (GROUP + device(UUID) + device(OTHER), 8, "group[0].device[1].symbol", "same symbol"),
        (GROUP + device(UUID, model="mty"), 6, "group[0].device[0].model", "did you mean mtty?"),
        (
            GROUP + device(UUID, more="[group.device.options]\nport = 1"),
            8,
            "group[0].device[0].options.port",
            "no such option of mtty; did you mean ports?",
        ),
    ],
)
def test_wrong_file_is_told_with_line_key_and_choices(tmp_path, text, line, key, why):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_machine(path, load_models())
    assert (refused.value.line, refused.value.key) == (line, key), refused.value
    assert why in refused.value.why
    assert str(refused.value).startswith(f"{path}:")


def test_names_are_spelled_as_sysfs_spells_them(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(GROUP + device(UUID.upper()))
    (found,) = load_machine(path).devices
    assert found.name == UUID
    (wished,) = with_devices(
        MachineSpec(), [parse_device(f"mtty,name={UUID.upper()}")], load_models()
    ).devices
    assert wished.name == UUID
    with pytest.raises(DeviceError, match=r"did you mean '0000:00:05\.0'"):
        with_devices(MachineSpec(), [parse_device("edu,name=00:05.0")], load_models())


@pytest.mark.parametrize("model", ["edu", "dma-engine", "mtty"])
def test_mediated_device_has_no_iommu_behind_it(tmp_path, model):
    path = tmp_path / "m.toml"
    path.write_text(GROUP + device(UUID, model=model))
    assert load_machine(path, load_models()).groups == (GroupSpec(number=1),)
    assert with_devices(MachineSpec(), [parse_device(f"{model},bus=mdev")], load_models()).devices


@pytest.mark.parametrize("before", ["mtty,group=5", "edu,bus=mdev,group=5"])
@pytest.mark.parametrize("given", ["edu,group=5", "dma-engine,group=5", "vfio-pci,group=5,name=00fe:00:01.0"])
def test_pci_function_is_not_put_into_a_group_without_an_iommu(before, given):
    wishes = [parse_device(before), parse_device(given)]
    with pytest.raises(DeviceError, match=r"group=5 has no IOMMU, and a PCI function needs one") as error:
        with_devices(MachineSpec(), wishes, load_models())
    assert "without group=" in error.value.hint
    spec = MachineSpec(groups=(GroupSpec(number=5),))
    with pytest.raises(DeviceError, match="group=5 has no IOMMU"):
        with_devices(spec, wishes[1:], load_models())
    spec = MachineSpec(groups=(GroupSpec(number=5, iommu=IommuSpec()),))
    assert with_devices(spec, wishes[1:], load_models()).devices


def test_option_means_the_same_in_a_file_and_on_a_command_line(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(GROUP + device(UUID, more='[group.device.options]\nmigration = "v1"'))
    (one,) = load_machine(path, load_models()).devices
    (other,) = with_devices(MachineSpec(), [parse_device("mtty,migration=v1")], load_models()).devices
    assert one.options == other.options == {"migration": "v1"}
    assert "migration" in options(load_models()["mtty"])


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_machine(tmp_path / "none.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_machine(tmp_path / "binary")
