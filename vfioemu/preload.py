# SPDX-License-Identifier: MIT
"""Find the preload library, which emulates VFIO for programs that do not know of vfioemu."""

from pathlib import Path
from typing import Final

NAME: Final = "libvfioemu-preload.so"


def library() -> Path:
    """Return the path for LD_PRELOAD; `make build` and the wheel put the library beside this file.

    Raises:
        FileNotFoundError: it has not been built.
    """
    path = Path(__file__).with_name(NAME)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `make build` builds it")
    return path
