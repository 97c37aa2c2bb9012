# SPDX-License-Identifier: MIT
"""Which kernel a daemon answers as: what its machine file says, unless it, or one container, is told otherwise."""

import pytest

from tests.daemon.helpers import MACHINE
from tests.daemon.test_serve import Served, folder  # noqa: F401
from tests.releases import differing
from vfioemu import client, daemon
from vfioemu.uapi import constants as c

NESTING = c.VFIO_TYPE1_NESTING_IOMMU
OTHER = differing("nesting").name


async def test_a_container_chooses_for_itself():
    async with daemon.running(MACHINE) as server, client.connect(server.socket_path) as session:
        usual = await session.open_container()
        other = await session.open_container(profile=OTHER, quirks="clean", manual_clear="fixed")

        assert await usual.check_extension(NESTING) == 1
        assert await other.check_extension(NESTING) == 0
        with pytest.raises(OSError, match="Invalid argument"):
            await session.open_container(profile="linux-2.4")


@pytest.mark.parametrize(("options", "answer"), [((), 1), (("--profile", OTHER), 0)])
async def test_a_daemon_is_told_on_its_command_line(folder, options, answer):  # noqa: F811
    served = Served(folder, *options)
    try:
        async with client.connect(served.path) as session:
            assert await (await session.open_container()).check_extension(NESTING) == answer
    finally:
        served.end(15)
