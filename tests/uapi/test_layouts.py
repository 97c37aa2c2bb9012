# SPDX-License-Identifier: MIT
"""Every struct and constant against facts measured by the C compiler, and against the system's own header."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import vfioemu.uapi.structs as structs_module
from tests.releases import DEFAULT, PROFILES
from vfioemu.uapi import constants, structs
from vfioemu.uapi.payload import Payload

FACTS = Path(__file__).parents[2] / "protocol" / "uapi"
STRUCTS: dict[str, type[Payload]] = {
    getattr(structs, name).CNAME: getattr(structs, name) for name in structs_module.__all__
}
NUMBERS = {name: value for name, value in vars(constants).items() if name.startswith("VFIO_")}

OTHER_ARCHITECTURES = re.compile(
    r"(?i)spapr_(?!tce_iommu|tce_v2)|eeh_|nvlink2|zpci|vfio_(ccw|ap)_|subtype_ccw"
)
NO_C_STRUCT = {"vfio_device_feature_pci_vf_token"}  # a bare uuid
GREW = {"vfio_device_bind_iommufd", "vfio_device_attach_iommufd_pt", "vfio_device_detach_iommufd_pt"}
ONLY_WITH = {"VFIO_DEVICE_FEATURE_DMA_BUF": {"vfio_region_dma_range", "vfio_device_feature_dma_buf"}}
"""The structs of features that not all releases have."""
RELEASES = [release for release in PROFILES if (FACTS / f"{release}.json").exists()]
RENAMED = {"__VFIO_RESERVED_TYPE1_NESTING_IOMMU": "VFIO_TYPE1_NESTING_IOMMU"}


def facts(release: str) -> dict:
    header: dict = json.loads((FACTS / f"{release}.json").read_text())["headers"]["vfio.h"]
    return header


def missing(release: str) -> set[str]:
    """The structs that a release does not have."""
    absent = PROFILES[release].absent
    return {cname for feature, cnames in ONLY_WITH.items() if feature in absent for cname in cnames}


def signed(value: int) -> int:
    """The compiler's int: what the facts files print as u64."""
    return value - (1 << 64) if value >> 63 else value


@pytest.mark.parametrize("release", RELEASES)
def test_constants_have_the_values_that_the_compiler_saw(release):
    measured = {RENAMED.get(name, name): signed(value) for name, value in facts(release)["constants"].items()}
    wanted = {name: value for name, value in measured.items() if not OTHER_ARCHITECTURES.search(name)}
    got = {name: NUMBERS[name] for name in wanted if name in NUMBERS}
    # (1 << 31) is negative as an int and positive in the u32 field that it is for
    got["VFIO_REGION_TYPE_PCI_VENDOR_TYPE"] -= 1 << 32

    assert got == wanted


def test_no_constant_is_invented():
    known = {RENAMED.get(name, name) for release in RELEASES for name in facts(release)["constants"]}

    assert set(NUMBERS) <= known


@pytest.mark.parametrize("release", RELEASES)
def test_all_structs_are_there(release):
    wanted = {name for name in facts(release)["structs"] if not OTHER_ARCHITECTURES.search(name)}

    assert wanted - set(STRUCTS) == set()
    assert set(STRUCTS) - wanted - NO_C_STRUCT == missing(release)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("cname", sorted(set(STRUCTS) - NO_C_STRUCT))
def test_struct_has_the_layout_that_the_compiler_saw(cname, release):
    if cname in missing(release):
        assert cname not in facts(release)["structs"]
        return
    measured = facts(release)["structs"][cname]
    grew = cname in GREW and release != DEFAULT.name

    got = layout_of(STRUCTS[cname])
    wanted = {field["name"].lstrip("_"): (field["offset"], field["size"]) for field in measured["fields"]}
    unions = {name: place for name, place in wanted.items() if name not in got}

    if grew:
        assert STRUCTS[cname].SIZE < measured["size"]
        wanted = {name: wanted[name] for name in got}
        unions = {}
    else:
        assert STRUCTS[cname].SIZE == measured["size"]
    assert got == {name: place for name, place in wanted.items() if name not in unions}
    for name, place in unions.items():
        assert isinstance(getattr(STRUCTS[cname], name), property)
        assert place in got.values()


def layout_of(payload: type[Payload]) -> dict[str, tuple[int, int]]:
    """Offset and size of each named field, from the construct layout."""
    places = {}
    offset = 0
    for subcon in payload.LAYOUT.subcons:
        if subcon.name:
            places[subcon.name] = (offset, subcon.sizeof())
        offset += subcon.sizeof()
    if payload.TAIL:
        places[payload.TAIL] = (offset, 0)
    return places


def test_the_systems_header_agrees(tmp_path):
    """A C program prints what <linux/vfio.h> of this system says of every symbol that it has."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need a C compiler"
    header = subprocess.run(
        [compiler, "-E", "-dM", "-include", "linux/vfio.h", "-x", "c", "/dev/null"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    declarations = subprocess.run(
        [compiler, "-E", "-include", "linux/vfio.h", "-x", "c", "/dev/null"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    present = {name for name in NUMBERS if re.search(rf"\b{name}\b", header + declarations)}
    defined = {cname for cname in STRUCTS if re.search(rf"struct {cname}\s*{{", declarations)}
    assert len(present) > 100
    assert len(defined) > 20

    shorter = set()
    lines = [f'printf("{name} %lld\\n", (long long)({name}));' for name in sorted(present)]
    for cname in sorted(defined):
        lines.append(f'printf("{cname} %zu\\n", sizeof(struct {cname}));')
        body = declarations[re.search(rf"struct {cname}\s*{{", declarations).end() :].split("\n};")[0]
        for field in layout_of(STRUCTS[cname]):
            if spelling := re.search(rf"\b(_*{field})\b", body):
                lines.append(f'printf("{cname}.{field} %zu\\n", offsetof(struct {cname}, {spelling[1]}));')
            else:
                shorter.add(cname)  # an older header: the field, and what makes up its size, came later
    source = tmp_path / "facts.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/vfio.h>\n"
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    program = tmp_path / "facts"
    subprocess.run([compiler, "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout

    got = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    wanted = {name: NUMBERS[name] for name in present}
    wanted["VFIO_REGION_TYPE_PCI_VENDOR_TYPE"] -= 1 << 32
    for cname in defined:
        wanted[cname] = STRUCTS[cname].SIZE
        wanted |= {f"{cname}.{name}": offset for name, (offset, _) in layout_of(STRUCTS[cname]).items()}
    for cname in shorter:
        assert got.pop(cname) <= wanted.pop(cname)
    assert got == {name: value for name, value in wanted.items() if name in got}
    assert len(wanted) - len(got) <= len(shorter)
