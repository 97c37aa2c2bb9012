# SPDX-License-Identifier: MIT
"""What each reason means and what to do about it: the hints of `vfioemu migrate`, and docs/reasons.md.

    python -m vfioemu.migration.reasons    print the page

A reason without an entry here, or without a test that produces it, fails tests/static/test_reasons.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.plan import Reason


@dataclass(frozen=True, slots=True)
class Meaning:
    """One reason.

    Attributes:
        cause: what has happened.
        remedy: what to do; printed as the hint as well.
    """

    cause: str
    remedy: str


MEANINGS: Final[Mapping[Reason, Meaning]] = {
    Reason.NO_MIGRATION_SUPPORT: Meaning(
        "A device has no VFIO_DEVICE_FEATURE_MIGRATION with STOP_COPY: its model does not migrate, or its `migration` option is"
        ' `"v1"` or `"none"`.',
        'give it a model that migrates, with migration = "v2" in the machine file, or take the device out of the guest',
    ),
    Reason.P2P_MIXED: Meaning(
        "There are several devices, and one of them has no P2P state. Then they could not be stopped without one writing into"
        " another that has stopped already.",
        "migrate that device alone, or give it a model with P2P",
    ),
    Reason.DEVICE_NOT_RUNNING: Meaning(
        "A device is not in the state RUNNING before the migration begins: after a failed transition it is in ERROR.",
        "reset the device (VFIO_DEVICE_RESET), or build the guest anew",
    ),
    Reason.TRACKING_START_FAILED: Meaning(
        "DMA_LOGGING_START of a device, or DIRTY_PAGES START of a container, was refused. Nothing was sent, and what had been"
        " started was stopped again.",
        "`vfioemu trace` on the source's daemon says why the call was refused",
    ),
    Reason.TRACKING_SYNC_FAILED: Meaning(
        "A dirty log could not be read (DMA_LOGGING_REPORT, GET_BITMAP). It may have lost what it held, so going on could lose"
        " writes.",
        "`vfioemu trace` on the source's daemon says why the call was refused",
    ),
    Reason.DEVICE_ERROR: Meaning(
        "A call on a device failed: at the source, or, if the detail begins with `the destination:`, there. `end` names the device,"
        " the call and the errno.",
        "`vfioemu trace` on the daemon of that side says why the call was refused",
    ),
    Reason.DEVICE_STATE_TOO_LARGE: Meaning(
        "The state of a device is larger than `--max-device-state`, or that of all takes longer than `--downtime` at the measured"
        " bandwidth. A device that cannot tell its size counts as 100 GiB for the latter, as with QEMU.",
        "allow more --downtime, or a larger --max-device-state",
    ),
    Reason.NOT_CONVERGING: Meaning(
        "The guest writes faster than the link carries: what is left did not fit into `--downtime` within the limits of the policy"
        " (`--max-rounds`, `--timeout`). The detail says how long it would have to stand still.",
        "allow more --downtime, --bandwidth or --timeout, or slow its CPUs down: --policy auto-converge",
    ),
    Reason.OUTAGE_TOO_LONG: Meaning(
        "The guest stood still for `--max-outage`, and something was not over by then; the detail says what. It runs on at the source.",
        "--max-outage allows more; if it was the destination, the log of its daemon may say what took so long",
    ),
    Reason.DAEMON_SILENT: Meaning(
        "A daemon has not answered a call within `--call-timeout`: that of the source, or, if the detail begins with `the destination:`, that"
        " one. It was stopped, or the machine is busy.",
        "look whether the daemon is stopped; --call-timeout allows more",
    ),
    Reason.PEER_ABSENT: Meaning(
        "Nobody listens at the address, or it cannot be reached; no byte was sent. The detail is what connect(2) said.",
        "start `vfioemu incoming` there first, or let the source wait for it: --wait",
    ),
    Reason.PEER_BUSY: Meaning(
        "The destination is loading another guest, or runs one already; it takes one.",
        "wait until the other migration is over, or start another `vfioemu incoming`",
    ),
    Reason.GUEST_DIFFERS: Meaning(
        "The shell at the destination has other RAM blocks, devices or CPUs than the guest, or another page size.",
        "both sides need the same guest file, and daemons with the same devices",
    ),
    Reason.VERIFY_REQUIRED: Meaning(
        "The destination takes only guests that are compared (`incoming --verify=required`), and the source was told not to.",
        "leave --no-verify out",
    ),
    Reason.PEER_REFUSED: Meaning(
        "The destination has refused this migration for ever: it was asked what had become of it before it had started, the guest could"
        " not be started there, the same migration was there before, or it gave a reason that this release does not know.",
        "migrate again: a new migration is not refused by it",
    ),
    Reason.PEER_LOST: Meaning(
        "The connection broke: the other side has ended or was killed, or something between them cut it. At the destination also: the source"
        " gave up, and the detail has its reason.",
        "`vfioemu incoming` says why, if it still runs",
    ),
    Reason.PEER_SILENT: Meaning(
        "The other side has said nothing for `--peer-timeout`, though it would have said so if it had nothing to say; or it has not"
        " answered in that time, or taken a byte. Its process was stopped, or the connection is dead.",
        "look whether `vfioemu incoming` is stopped there; --peer-timeout allows more",
    ),
    Reason.PEER_UNTRUSTED: Meaning(
        "The other side belongs to another user, or it cannot be told to whom; or it does not know the token beside the UNIX socket"
        " (`PATH.token`), as somebody who was given the socket alone.",
        "run both sides as the same user with a view of the same directory, or name the other one: --peer-uid, on both sides",
    ),
    Reason.TLS_REFUSED: Meaning(
        "No TLS connection came about: a certificate is not of the authority, has expired, or is for another name; or the other side does"
        " not speak TLS 1.3.",
        "both sides need certificates of one authority (--tls-ca), for the names that they are called by",
    ),
    Reason.STREAM_CORRUPT: Meaning(
        "A frame made no sense: a wrong checksum, an impossible size, one that may not come now. Something has changed bytes on the"
        " way, or the other side is no vfioemu.",
        "if it happens again, report it with the detail; over a network use tls:",
    ),
    Reason.VERSION: Meaning(
        "The other side speaks another major version of the stream, or needs a feature that this one does not have.",
        "use the same release on both sides",
    ),
    Reason.CANCELLED: Meaning(
        "A signal, or the program that embeds the migration, has asked for the end before COMMIT.",
        "nothing is to be done; the next migration begins from the start",
    ),
    Reason.MISMATCH: Meaning(
        "Pages or devices at the destination are not what the source has: a write was lost, or a device did not keep its state."
        " `lost_write` and `verify` events name them.",
        "--on-mismatch=move moves it all the same",
    ),
    Reason.LATE_WRITE: Meaning(
        "A device or a CPU wrote after it had been told to stand still, or a page changed of which nobody's account tells. `late_write`"
        " and `audit` events name origin, page, sequence number and moment.",
        "the named device keeps writing after STOP_COPY: repair its model, or the mapping that lets it; --on-mismatch=move moves the"
        " guest all the same",
    ),
    Reason.NOT_COMPARED: Meaning(
        "Nothing is known to differ, but of some device nothing could be compared either. What was not compared does not count as the same.",
        "--on-mismatch=move moves it all the same",
    ),
    Reason.LOG_FAILED: Meaning(
        "The journal of the hand-over could not be written, at the source or, if the detail begins with `the destination:`, there. Nothing is"
        " moved that is not written down.",
        "make room in the directory of --state-dir, or name another one",
    ),
    Reason.GUEST_ENDED: Meaning(
        "The destination was told to start the guest, and has died since. The guest runs nowhere.",
        "start it anew: it is not resumed here, since what it did there would be undone",
    ),
}


def page() -> str:
    """Return docs/reasons.md."""
    parts = [
        f"## {reason}\n\n{MEANINGS[reason].cause}\n\nRemedy: {MEANINGS[reason].remedy}.\n"
        for reason in Reason
    ]
    return _HEAD + "\n" + "\n".join(parts)


_HEAD: Final = """\
# Why a migration ended

The `reason` of the `end` event of `vfioemu migrate --json`, and of `blocker`, is one of these. It is a closed list: in the schema
(`protocol/migration-events.schema.json`) it is an enum. Beside it, `end` has `detail` in words; `errno`, `errno_name` and `ioctl` if a call
failed (the ioctl, or of VFIO_DEVICE_FEATURE the feature; `read` and `write` are of the data fd), `device` for whom, and `range` for which
iova and size; and `runs`: `source`, `destination`, `nobody` or `unknown`.

This page is made by `python -m vfioemu.migration.reasons`.
"""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
