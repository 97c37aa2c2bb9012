# SPDX-License-Identifier: MIT
"""The machine on which programs are played: oracle devices of each variant, and one of every other model."""

from typing import Final

from tests.fuzzing.client import LAYOUT, OTHERS, PASSIVE, VFIO_PCI, Layout
from vfioemu.core.objects.migration_v1 import take_option
from vfioemu.devices.registry import load_models

WANTED: Final[Layout] = (
    *LAYOUT,
    (VFIO_PCI, True),
    ("migspc", False),
    ("migsc", False),
    ("log", False),
    ("migs", False),
    ("migsp", False),
    ("dma-engine-1", False),
    ("dma-engine-2", True),
    ("dma-engine-3", True),
    ("dma-engine-v1", False),
    ("mtty-1", False),
    ("mtty-2", False),
    ("edu", True),
    ("e1000e", True),
    ("nvme", True),
    ("oracle-v1", False),
    ("mtty-v1", False),
)


def _existing(variant: str) -> str:
    """The variant, or "basic" if its model is not installed or has no such option."""
    if variant not in OTHERS:
        return variant
    name, described = OTHERS[variant]
    options = dict(described)
    try:
        take_option(options)
        load_models()[name](options)
    except (KeyError, ValueError):
        return "basic"
    return variant


PLAYED: Final[Layout] = tuple((_existing(variant), backed) for variant, backed in WANTED)


def reaches_memory(variant: str) -> bool:
    """Whether a device does DMA or pins on its own account, which the model does not follow."""
    return variant in OTHERS and variant not in PASSIVE
