# SPDX-License-Identifier: MIT
"""Load golden traces: scenarios, their steps, and the environment in which they were recorded.

protocol/golden/README.md describes the format. A step stays the dictionary of the file: its op decides which fields are input
and which are the kernel's answer, and `replay` knows that.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Step: TypeAlias = Mapping[str, Any]

ENVIRONMENT_FILE: Final = "_env.json"


class TraceError(Exception):
    """A trace file cannot be used; the text says which, where and why."""


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device of the recording machine: its group number, and its name for GET_DEVICE_FD."""

    group: int
    name: str


@dataclass(frozen=True, slots=True)
class Environment:
    """The contents of `_env.json`.

    Attributes:
        kernel: its release, ``"6.12.107+deb13-amd64"``.
        ioctls: numbers by name.
        errnos: numbers by name.
        devices: by symbol.
    """

    kernel: str
    ioctls: Mapping[str, int]
    errnos: Mapping[str, int]
    devices: Mapping[str, DeviceName]

    def command(self, name: str) -> int:
        """Return the ioctl number of a step's `cmd`: a name, or ``#3b75``."""
        return int(name[1:], 16) if name.startswith("#") else self.ioctls[name]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: a process's calls in their order, with the kernel's answers."""

    family: str
    name: str
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        """``family/name``."""
        return f"{self.family}/{self.name}"


@dataclass(frozen=True, slots=True)
class Traces:
    """A trace file with the environment beside it."""

    path: Path
    environment: Environment
    scenarios: tuple[Scenario, ...]


def load_environment(folder: Path) -> Environment:
    """Read the `_env.json` of a folder.

    Raises:
        TraceError: it is missing or malformed.
    """
    path = folder / ENVIRONMENT_FILE
    try:
        data = json.loads(path.read_bytes())
        return Environment(
            kernel=data["kernel"],
            ioctls=data["ioctls"],
            errnos=data["errnos"],
            devices={d["sym"]: DeviceName(d["group"], d["name"]) for d in data["devices"]},
        )
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; it belongs beside the trace files") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: not an environment file ({error!r})") from error


def load_traces(path: Path) -> Traces:
    """Read a trace file and its environment.

    Raises:
        TraceError: a file cannot be read, or a line is not a scenario.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a trace file ({error.reason})") from error
    return Traces(path, load_environment(path.parent), tuple(_scenarios(path, text)))


def _scenarios(path: Path, text: str) -> Iterator[Scenario]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            yield Scenario(data["family"], data["name"], tuple(data["steps"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"{path}:{number}: not a scenario ({error!r})") from error
