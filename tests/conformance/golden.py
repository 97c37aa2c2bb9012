# SPDX-License-Identifier: MIT
"""Which golden traces must pass, and a sample of them."""

import json
import shutil
import zlib
from pathlib import Path

from tests.releases import DEFAULT, PROFILES
from vfioemu.conformance.trace import ENVIRONMENT_FILE, Traces, load_traces

GOLDEN = Path(__file__).parents[2] / "protocol" / "golden"
RECORDED = [GOLDEN / release for release in PROFILES if (GOLDEN / release).exists()]
"""One folder for each release that was recorded, the oldest first."""
USUAL = GOLDEN / DEFAULT.name
"""Nearly all scenarios; the others have those that another kernel answers differently."""
OTHERS = [folder for folder in RECORDED if folder != USUAL]

HAND_WRITTEN = [
    "container",
    "group",
    "iommu_info",
    "map",
    "unmap",
    "vaddr",
    "limits",
    "dirty_order",
    "dirty_bad",
    "dirty_pins",
    "dirty_quirks",
    "dirty_unmap",
    "dirty_groups",
    "aw39_iommu_info",
    "aw39_map",
    "dma_buf",
    "device",
    "feature",
    "logging",
    "migration",
    "precopy_v2",
]
"""Two of them are of one of the other releases alone."""
RANDOM = [
    "rand_map",
    "rand_map_v1",
    "rand_dirty",
    "rand_dirty_iommu",
    "rand_dirty_corrupt",
    "rand_hotplug",
    "rand_vaddr",
    "rand_payload",
    "rand_logging",
    "rand_migration",
    "migration_pairs",
    "migration_triples",
]
"""Many and alike; random, but for the last two."""
REQUIRED = [*HAND_WRITTEN, *RANDOM]


def load(folder: Path, family: str) -> Traces:
    return load_traces(folder / f"{family}.jsonl")


def chosen(scenario_id: str, of: int = 10) -> bool:
    """One scenario in `of`, always the same ones."""
    return zlib.crc32(scenario_id.encode()) % of == 0


def write_sample(folder: Path, families: list[str], target: Path, of: int = 10) -> list[Path]:
    """Write the chosen scenarios of some families to files of their own; returns these."""
    target.mkdir()
    shutil.copy(folder / ENVIRONMENT_FILE, target)
    files = []
    for family in families:
        lines = (folder / f"{family}.jsonl").read_text().splitlines(keepends=True)
        path = target / f"{family}.jsonl"
        path.write_text("".join(line for line in lines if chosen(scenario_id(line), of)))
        files.append(path)
    return files


def scenario_id(line: str) -> str:
    data = json.loads(line)
    return f"{data['family']}/{data['name']}"
