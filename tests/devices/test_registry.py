# SPDX-License-Identifier: MIT
"""Models are found by name."""

import pytest

from vfioemu.core.model.device import DeviceModel
from vfioemu.devices.registry import load_models


@pytest.mark.parametrize("name", ["dma-engine", "oracle", "vfio-pci"])
def test_each_of_ours_is_installed_and_makes_a_device(name):
    models = load_models()

    assert isinstance(models[name]({}), DeviceModel)
    assert name in list(models)


def test_tests_may_bring_their_own():
    class Mine(DeviceModel):
        pass

    models = load_models({"mine": Mine, "oracle": Mine})

    assert models["mine"] is models["oracle"] is Mine
    assert len(models) == len(list(models)) == len(load_models()) + 1
    assert models.get("nobody's") is None


@pytest.mark.parametrize("model", ["dma-engine", "oracle", "vfio-pci"])
def test_unknown_options_are_refused_by_name(model):
    with pytest.raises(ValueError, match="colour"):
        load_models()[model]({"colour": "red"})
