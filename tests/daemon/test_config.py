# SPDX-License-Identifier: MIT
"""Machine files: what they say, and what is said about wrong ones."""

import pytest

from vfioemu.core.spec import DeviceSpec, GroupSpec, IommuSpec, MachineSpec
from vfioemu.daemon.config import ConfigError, load_machine, parse_machine

FULL = """
profile = "linux-7.2"
quirks = "clean"
memlock = 1048576
dma-entry-limit = 10
[[group]]
number = 12
viable = false
[[group.device]]
symbol = "a"
name = "n"
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
"""


def test_full_file():
    assert parse_machine(FULL) == MachineSpec(
        profile="linux-7.2",
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
        devices=(DeviceSpec(symbol="a", name="n", group=12, model="oracle", options={"variant": "basic"}),),
    )


def test_empty_file_is_an_empty_machine():
    assert parse_machine("") == MachineSpec()


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("x\ny = 1", "", "line 1"),
        ("profil = 'x'", "profil", "no such key"),
        ("profile = 5", "profile", "expected str"),
        ("profile = 'linux-1.0'", "", "linux-1.0"),
        ("quirks = 'other'", "quirks", "other"),
        ("memlock = 'some'", "memlock", "some"),
        ("memlock = -1", "", "-1"),
        ("dma-entry-limit = -1", "", "-1"),
        ("memlock = " + "9" * 5000, "", "digits"),
        ("memlock = " + "[" * 5000, "", "recursion"),
        ("[[group]]\nnumber = -1", "group[0]", "-1"),
        ("[[group]]\nnumber = 2147483648", "group[0]", "2147483648"),
        ("[[group]]", "group[0].number", "missing"),
        ("[[group]]\nnumber = 'x'", "group[0].number", "expected int"),
        ("[[group]]\nnumber = 1\n[[group]]\nnumber = 1", "", "same number"),
        ("[[group]]\nnumber = 1\n[group.iommu]\naddress_bits = 1", "group[0].iommu.address_bits", "no such"),
        ("[[group]]\nnumber = 1\n[group.iommu]\naddress-bits = 1", "group[0].iommu", "address_bits"),
        ("[[group]]\nnumber = 1\n[group.iommu]\nreserved = [[2, 1]]", "group[0].iommu", "reserved"),
        ("[[group]]\nnumber = 1\n[[group.device]]\nname = 'n'", "group[0].device[0].symbol", "missing"),
    ],
)
def test_wrong_file_is_told_with_its_key(tmp_path, text, where, why):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_machine(path)
    assert refused.value.where == where
    assert why in refused.value.why
    assert str(refused.value).startswith(f"{path}: ")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_machine(tmp_path / "none.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="utf-8"):
        load_machine(tmp_path / "binary")
