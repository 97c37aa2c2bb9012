# SPDX-License-Identifier: MIT
"""The support matrix is what its generator prints, and the generator claims nothing that is not so."""

import dataclasses
import json
from collections import Counter

import pytest

from tests.conformance.golden import GOLDEN
from tests.releases import DEFAULT, PROFILES
from vfioemu.conformance import probes
from vfioemu.conformance.evidence import Evidence, collect
from vfioemu.conformance.support import (
    PROTOCOL,
    Status,
    claims,
    page,
    reason,
    sections,
    symbols,
)
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS

pytestmark = pytest.mark.slow  # all golden traces are replayed, and looked through for what they show


@pytest.fixture(scope="module")
def evidence():
    return collect(sorted(GOLDEN.glob("linux-*")))


@pytest.fixture(scope="module")
def live():
    return set().union(*(probes.live_names(probes.machine_spec(release)) for release in PROFILES))


@pytest.fixture(scope="module")
def found(evidence, live):
    return claims(evidence, live)


def test_the_committed_matrix_is_the_generated_one(found):
    assert (PROTOCOL / "support.md").read_text() == page(found), (
        "python -m vfioemu.conformance.support > protocol/support.md"
    )


def test_every_name_of_the_header_is_on_the_page_once(found):
    shown = Counter(name for _, names in sections() for name in names)

    assert set(shown) == set(symbols()) == set(found)
    assert set(shown.values()) == {1}
    left_out = set()
    for file in (PROTOCOL / "uapi").glob("linux-*.json"):
        data = json.loads(file.read_text())
        left_out |= set(data["headers"]["vfio.h"]["constants"]) - set(found)
    assert left_out == {
        "VFIO_API_VERSION", "VFIO_AP_NUM_IRQS", "VFIO_BASE", "VFIO_CCW_NUM_IRQS", "VFIO_CCW_NUM_REGIONS",
        "VFIO_DEVICE_FEATURE_MASK", "VFIO_DEVICE_IOEVENTFD_SIZE_MASK", "VFIO_DEVICE_STATE_MASK", "VFIO_DEVICE_STATE_NR",
        "VFIO_IRQ_SET_ACTION_TYPE_MASK", "VFIO_IRQ_SET_DATA_TYPE_MASK", "VFIO_PCI_NUM_IRQS", "VFIO_PCI_NUM_REGIONS",
        "VFIO_REGION_TYPE_PCI_VENDOR_MASK", "VFIO_TYPE", "__VFIO_RESERVED_TYPE1_NESTING_IOMMU",
    }  # fmt: skip


def test_whatever_is_not_there_has_a_reason(found):
    missing = [name for name, claim in found.items() if claim.status in (Status.REFUSED, Status.ABSENT)]

    assert [name for name in missing if not found[name].why] == []
    assert not any(reason(name) for name in ("VFIO_IOMMU_MAP_DMA", "VFIO_DEVICE_FEATURE_MIGRATION"))


def test_what_the_traces_worked_with_is_live(evidence, live):
    """Two independent ways to know: the recorded kernel did it, and our own machine does it."""
    needs_memory = {"VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP", "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP"}
    never_asked_alone = {"VFIO_DEVICE_FEATURE_GET", "VFIO_DEVICE_FEATURE_SET"}
    known = set(symbols()) - needs_memory - never_asked_alone
    worked = {name for name in known if evidence.worked[name]}

    assert len(worked) > 90
    assert worked - live <= EASY_TO_MISS


EASY_TO_MISS = {"VFIO_IRQ_SET_ACTION_MASK", "VFIO_IRQ_SET_ACTION_UNMASK"}
"""They want an interrupt that is on, and nobody turns one on while asking."""


def test_what_is_served_by_the_registry_is_not_called_absent(found):
    for row in IOCTLS:
        assert found[row.name].status in (Status.EXACT, Status.IMPLEMENTED), row.name
    for feature in FEATURES.values():
        there = found[f"VFIO_DEVICE_FEATURE_{feature.name}"].status in (Status.EXACT, Status.IMPLEMENTED)
        assert there == feature.served, feature.name


def test_a_count_is_that_of_the_lines_in_the_files(found):
    """Counted once more, by a program that knows nothing of structs."""
    counted = 0
    for path in GOLDEN.glob("linux-*/*.jsonl"):
        for line in path.read_text().splitlines():
            scenario = json.loads(line)
            counted += sum(
                step.get("cmd") in ("VFIO_IOMMU_MAP_DMA", "#3b71")
                and scenario["fds"].get(step["fd"]) == "container"
                for step in scenario["steps"]
            )

    assert found["VFIO_IOMMU_MAP_DMA"].steps == counted > 1000


def test_without_traces_nothing_is_exact(live):
    assert not any(claim.status is Status.EXACT for claim in claims(Evidence(), live).values())


def test_with_nothing_live_all_that_was_not_recorded_is_refused_or_absent(evidence):
    found = claims(evidence, set())

    assert found["VFIO_IOMMU_MAP_DMA"].status is Status.EXACT
    assert not any(claim.status is Status.IMPLEMENTED for claim in found.values())


def test_a_machine_without_a_migratable_device_has_no_migration():
    spec = probes.machine_spec(DEFAULT.name)
    plain = tuple(device for device in spec.devices if device.symbol == "mb0")
    groups = tuple(group for group in spec.groups if group.number == plain[0].group)
    live = probes.live_names(dataclasses.replace(spec, devices=plain, groups=groups))

    assert {"VFIO_IOMMU_MAP_DMA", "VFIO_DEVICE_RESET", "VFIO_DEVICE_GET_INFO"} <= live
    assert not {name for name in live if name.startswith(("VFIO_DEVICE_STATE_", "VFIO_MIG"))}
    assert "VFIO_DEVICE_FEATURE_MIGRATION" not in live
    assert "VFIO_DEVICE_FEATURE_DMA_LOGGING_START" not in live


def test_questions_put_nonsense_in_one_place_only():
    row = next(row for row in IOCTLS if row.name == "VFIO_DEVICE_SET_IRQS")
    asked = list(probes.questions(row))

    assert len(asked) > 50
    for question in asked:
        if question.nonsense is not None:
            differing = {
                n // 4
                for n, pair in enumerate(zip(question.raw, question.nonsense, strict=True))
                if len(set(pair)) > 1
            }
            assert len(differing) == 1


def test_every_call_is_asked_about():
    for row in IOCTLS:
        if row.payload is not None:
            assert any(probes.questions(row)), row.name
    assert {row.kind for row in IOCTLS} <= set(FdKind)
    assert c.VFIO_GROUP_UNSET_CONTAINER
