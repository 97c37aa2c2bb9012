# SPDX-License-Identifier: MIT
"""A second, much simpler opinion: what a VFIO container must answer, in plain Python.

Property tests and the fuzzer hold the core against it. It shares no code with the core: mappings are a dictionary, a
dirty bitmap is one integer, every search is a loop. It knows Linux 6.12 on x86-64 and page-aligned pins, and does not
follow mappings in the top page of the 64-bit IOVA space, which that kernel cannot look up.
"""

from tests.fuzzing.model.container import Container
from tests.fuzzing.model.device import Device, Group
from tests.fuzzing.model.mapping import PAGE, Mapping, Refusal, Space, UserBitmap

__all__ = ["PAGE", "Container", "Device", "Group", "Mapping", "Refusal", "Space", "UserBitmap"]
