# SPDX-License-Identifier: MIT
"""Where the preload library is, which emulates VFIO for programs that know nothing of us."""

from pathlib import Path
from typing import Final

NAME: Final = "libvfioemu-preload.so"


def library() -> Path:
    """The library that LD_PRELOAD is to name; `make build` and the wheel put it beside this file.

    Raises:
        FileNotFoundError: it was not built.
    """
    path = Path(__file__).with_name(NAME)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: it is built by `make build`")
    return path
