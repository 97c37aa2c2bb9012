# SPDX-License-Identifier: MIT
"""Which call has failed: what `end` tells beside a reason."""

from dataclasses import dataclass

from vfioemu.client.callname import name_of_failed


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call to a daemon that failed.

    Attributes:
        ioctl: its name; of VFIO_DEVICE_FEATURE the feature; `read` and `write` are of a device's data fd or regions. None if
            it was no call of ours.
        device: whose it was, as the guest file calls it; None for a container's.
        iova: the first address that it was about; None if it was about none.
        size: in bytes, from `iova` on.
    """

    ioctl: str | None = None
    device: str | None = None
    iova: int | None = None
    size: int | None = None

    @classmethod
    def of(
        cls, error: OSError, device: str | None = None, area: tuple[int, int] | None = None
    ) -> "FailedCall":
        """Describe the call of an error; `area`: iova and size."""
        iova, size = area or (None, None)
        return cls(name_of_failed(error), device or None, iova, size)
