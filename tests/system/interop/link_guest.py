# SPDX-License-Identifier: MIT
"""Make the guest, and put it where people find it: links FOLDER/vmlinuz and FOLDER/initrd."""

import sys
from pathlib import Path

from tests.system.interop.guestimage import guest_image


def link(folder: Path) -> None:
    """Link to the guest's two files, and to no older ones."""
    image = guest_image()
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("vmlinuz", image.kernel), ("initrd", image.initrd)):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)


if __name__ == "__main__":
    link(Path(sys.argv[1]))
