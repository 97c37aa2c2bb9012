# SPDX-License-Identifier: MIT
"""Options of devices: one syntax, and one description of each model's."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import trio
from msgspec import UNSET, Meta, UnsetType

from tests.daemon.helpers import MACHINE
from vfioemu import daemon
from vfioemu.core.model.device import DeviceModel
from vfioemu.daemon.arguments import parse_device
from vfioemu.devices.options import U64, Options, OptionTable, describe, read_pairs, schema
from vfioemu.devices.registry import load_models, option_rows, option_schema, options
from vfioemu.starting import command

OURS = ["dma-engine", "e1000e", "edu", "mtty", "nvme", "oracle", "pci-testdev", "vfio-pci"]


class Ticks(Options, frozen=True):
    """What can be said of a tick."""

    step: Annotated[int, Meta(ge=1, le=255, description="how much one adds")] = 1
    word: Annotated[U64 | UnsetType, Meta(description="a word")] = UNSET
    mode: Annotated[Literal["once", "often"], Meta(description="how often")] = "once"
    pause: Annotated[float, Meta(ge=0, le=3600, description="seconds")] = 0.5
    parts: Annotated[tuple[Literal["a", "b"], ...], Meta(max_length=2, description="which")] = ("a", "b")

    def __post_init__(self):
        if self.step == 13:
            raise ValueError("step: 13 brings bad luck")


@pytest.mark.parametrize(
    ("text", "toml", "value"),
    [
        ("0x10", "0x10", 16),
        ("true", "true", True),
        ("0.5", "0.5", 0.5),
        ("keep", '"keep"', "keep"),
        ('"keep"', '"keep"', "keep"),
        ("[stop-copy]", '["stop-copy"]', ["stop-copy"]),
        ('["stop-copy", "p2p"]', '["stop-copy", "p2p"]', ["stop-copy", "p2p"]),
        ("[0x1000, 2]", "[0x1000, 2]", [4096, 2]),
        ("0000:00:05.0", '"0000:00:05.0"', "0000:00:05.0"),
        ("1979-05-27", '"1979-05-27"', "1979-05-27"),
        ("1 # one", '"1 # one"', "1 # one"),
        ("1\ny = 2", r'"1\ny = 2"', "1\ny = 2"),
        ("{a = 1}", '"{a = 1}"', "{a = 1}"),
        ("", '""', ""),
    ],
)
def test_a_value_means_the_same_on_a_command_line_and_in_a_file(text, toml, value):
    assert tomllib.loads(f"x = {toml}") == read_pairs([f"x={text}"]) == {"x": value}
    assert type(read_pairs([f"x={text}"])["x"]) is type(value)


@pytest.mark.parametrize("text", ["hide=0x10", "migration=[stop-copy,p2p]", "pins=keep", "bus-master=true"])
def test_mdev_start_and_device_read_the_same(text):
    assert parse_device(f"dma-engine,{text}").options == read_pairs([text])
    load_models()["dma-engine"](read_pairs([text]))


@pytest.mark.parametrize("pairs", [["hide"], ["=1"], ["hide=1", "hide=1"]])
def test_what_is_no_key_with_a_value_is_refused(pairs):
    with pytest.raises(ValueError, match=r"is not key=value|is given twice"):
        read_pairs(pairs)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"step": 0}, "step: a whole number from 1 to 255, not 0"),
        ({"step": True}, "step: a whole number from 1 to 255, not True"),
        ({"step": 1.0}, "step: a whole number from 1 to 255, not 1.0"),
        ({"step": None}, "step: a whole number from 1 to 255, not None"),
        ({"step": 13}, "step: 13 brings bad luck"),
        ({"word": 1 << 64}, f"word: a whole number from 0 to 2^64 - 1, not {1 << 64}"),
        ({"word": 1 << 700}, "word: a whole number from 0 to 2^64 - 1, not 5260135901548373507"),
        ({"mode": "onse"}, "mode: often or once, not 'onse'; did you mean once?"),
        ({"mode": "\x1b[1m"}, r"mode: often or once, not '\x1b[1m'"),
        ({"pause": float("nan")}, "pause: a number from 0 to 3600, not nan"),
        ({"parts": ["a", "c"]}, "parts: a list of up to 2, each a or b, not ['a', 'c']"),
        ({"parts": ["a", "a", "b"]}, "parts: a list of up to 2, each a or b, not ['a', 'a', 'b']"),
        ({"stap": 1}, "no such option: stap; did you mean step?"),
    ],
)
def test_a_refusal_says_the_option_the_limit_the_value_and_a_guess(given, why):
    with pytest.raises(ValueError, match=re.escape(why)) as refusal:
        Ticks.parse(given)

    assert len(str(refusal.value)) < 200


def test_what_is_right_is_taken():
    found = Ticks.parse({"step": 255, "word": (1 << 64) - 1, "mode": "often", "pause": 3, "parts": ["b"]})

    assert (found.step, found.word, found.mode, found.pause, found.parts) == (
        255,
        (1 << 64) - 1,
        "often",
        3.0,
        ("b",),
    )
    assert Ticks.parse({}).word is UNSET
    assert Ticks.parse_own({"step": 2, "of-a-subclass": 1}).step == 2


def test_people_and_programs_are_told_names_kinds_and_defaults():
    rows = {row.name: row for row in describe(OptionTable(Ticks), migrates=True)}
    made = schema(OptionTable(Ticks), migrates=True)

    assert (rows["step"].kind, rows["step"].default) == ("a whole number from 1 to 255", "1")
    assert (rows["word"].kind, rows["word"].default) == ("a whole number from 0 to 2^64 - 1", "")
    assert rows["parts"].default == "[a,b]"
    assert rows["migration"].kind == "v2, v1 or none"
    assert made["properties"]["word"]["maximum"] == (1 << 64) - 1
    assert made["properties"]["migration"]["enum"] == ["v2", "v1", "none"]
    assert not made["additionalProperties"]
    assert json.loads(json.dumps(made))


@pytest.mark.parametrize("name", OURS)
def test_every_model_of_ours_describes_its_options(name):
    factory = load_models()[name]
    rows = option_rows(factory)

    assert isinstance(factory, type)
    assert issubclass(factory, DeviceModel)
    assert isinstance(factory.OPTIONS, OptionTable)
    assert all(row.meaning and row.kind for row in rows)
    assert {row.name for row in rows} == set(options(factory)) == set(option_schema(factory)["properties"])
    given = {row.name: read_pairs([f"x={row.default}"])["x"] for row in rows if row.default}
    if isinstance(given.get("migration"), str):
        del given["migration"]
    factory(given)  # what is told to be the default is taken


def test_a_model_without_a_struct_is_told_of_as_it_tells_of_itself():
    class Bell(DeviceModel):
        OPTIONS: ClassVar[Mapping[str, str]] = {"step": "how much one ring adds, 1 to 255 (default 1)"}
        migration_flags = 1

    assert options(Bell)["step"] == "how much one ring adds, 1 to 255 (default 1)"
    assert [row.name for row in option_rows(Bell)] == ["step", "migration"]
    assert option_schema(Bell)["properties"]["step"] == {"description": Bell.OPTIONS["step"]}
    with pytest.raises(ValueError, match="no such option: stap"):
        Bell({"stap": 1})


async def test_what_mdev_start_gives_arrives_as_it_is_in_a_file(tmp_path):
    async with daemon.running(MACHINE) as server:
        words: list[str | Path] = [
            "mdev",
            "start",
            "--runtime-dir",
            server.socket_path.parent,
            "-t",
            "dma-engine",
        ]
        for option in ("hide=0x10", "migration=[stop-copy]", "pins=window", "big-bar=4096"):
            words += ["-o", option]
        done = await trio.run_process(command(*words), capture_stdout=True, check=False)
        assert done.returncode == 0
        name = done.stdout.split()[0].decode()
        model: Any = server.machine.devices[name].model

    expected: Any = load_models()["dma-engine"](
        {"hide": 16, "migration": ["stop-copy"], "pins": "window", "big-bar": 4096}
    )
    assert model.options == expected.options
