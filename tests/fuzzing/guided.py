# SPDX-License-Identifier: MIT
"""`python -m tests.fuzzing.guided [libFuzzer options] CORPUS`: atheris, guided by the coverage of the core.

A process of its own: what is instrumented must not have been imported before, and atheris never returns.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

INSTRUMENTED: Final = ["vfioemu.core", "vfioemu.devices", "vfioemu.native", "vfioemu.uapi"]


def main(arguments: list[str], prepare: Callable[[], None] | None = None) -> None:
    """Fuzz; does not return.

    Args:
        arguments: libFuzzer's.
        prepare: is called once all is instrumented; the negative controls plant their mistakes here.
    """
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        entry = importlib.import_module("tests.fuzzing.entry")
    if prepare is not None:
        prepare()
    mutate = importlib.import_module("tests.fuzzing.mutate")

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        mutated: bytes = mutate.Mutator(seed).mutate(data, max_size)
        return mutated

    def crossover(one: bytes, other: bytes, max_size: int, seed: int) -> bytes:
        crossed: bytes = mutate.Mutator(seed).cross(one, other, max_size)
        return crossed

    again = f"{sys.executable} -P -m tests.fuzzing.guided"  # libFuzzer starts itself by this to merge
    atheris.Setup([again, *arguments], entry.run_input, custom_mutator=mutator, custom_crossover=crossover)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
