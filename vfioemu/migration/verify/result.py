# SPDX-License-Identifier: MIT
"""What a comparison has found: of each device, and in a sentence.

A device is the same if its state was compared and is the same, and nothing that it shows differs. It *differs* if anything does. If
its state could not be compared it is *not compared*, whatever else of it is the same: nobody has seen then that nothing was
lost, and a verification that has seen nothing must not pass. What it shows and could not be read is told of, and decides nothing:
its state has that in it as well.
"""

from collections.abc import Sequence
from typing import Final

from vfioemu.migration.messages import Checked, DeviceLedger, DevicePart, DeviceVerdict, DeviceView, Likeness
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import MAX_DETAIL, corrupt
from vfioemu.migration.verify.echo import SLACK
from vfioemu.migration.verify.estimates import is_too_much
from vfioemu.printable import printable

STATE: Final = "state"
_LONGEST: Final = 200
"""Characters of what is said about one part."""
_TOLD: Final = 4
"""Differences of one part that are told."""


def compare(theirs: DeviceLedger, ours: DeviceLedger) -> DeviceVerdict:
    """Hold, at the destination, what the source's device was against what the device here is."""
    parts = [_compare_state(theirs, ours)]
    if theirs.said is not None and theirs.size > theirs.said + SLACK:
        detail = f"MIG_DATA_SIZE said {theirs.said} bytes, and its state has {theirs.size}"
        parts.append(_part("size of its state", Likeness.DIFFERS, detail))
    if is_too_much(theirs.promised, theirs.came):
        detail = f"PRECOPY_INFO said that {theirs.promised} bytes are left, and {theirs.came} came"
        parts.append(_part("pre-copy", Likeness.DIFFERS, detail))
    mine = {view.what: view for view in ours.views}
    parts += [_compare_view(view, mine.pop(view.what, None)) for view in theirs.views]
    parts += [_part(what, Likeness.DIFFERS, "the source's device shows none") for what in mine]
    return DeviceVerdict(name=theirs.name, parts=parts)


def _compare_state(theirs: DeviceLedger, ours: DeviceLedger) -> DevicePart:
    for ledger, where in ((theirs, "at the source"), (ours, "at the destination")):
        if ledger.why:
            return _part(STATE, Likeness.NOT_COMPARED, f"{where}: {ledger.why}")
    if not theirs.size and not ours.size:
        return _part(STATE, Likeness.NOT_COMPARED, "the device gives no state")
    if theirs.size != ours.size:
        return _part(STATE, Likeness.DIFFERS, f"{ours.size} bytes, and {theirs.size} at the source")
    if theirs.state != ours.state:
        return _part(STATE, Likeness.DIFFERS, f"{ours.size} bytes, which are not those of the source")
    return _part(STATE, Likeness.SAME)


def _compare_view(theirs: DeviceView, ours: DeviceView | None) -> DevicePart:
    if ours is None:
        return _part(theirs.what, Likeness.DIFFERS, "the device here shows none")
    if theirs.why or ours.why:
        if bool(theirs.why) != bool(ours.why):
            where = "at the source" if theirs.why else "at the destination"
            return _part(theirs.what, Likeness.NOT_COMPARED, f"{where}: {theirs.why or ours.why}")
        return _part(theirs.what, Likeness.NOT_COMPARED, theirs.why)
    names = [*theirs.values, *(name for name in ours.values if name not in theirs.values)]
    wrong = [name for name in names if theirs.values.get(name) != ours.values.get(name)]
    if not wrong:
        return _part(theirs.what, Likeness.SAME)
    told = [
        f"{name} is {ours.values.get(name, 'zero')}, was {theirs.values.get(name, 'zero')}"
        for name in wrong[:_TOLD]
    ]
    more = [f"{len(wrong) - _TOLD} more"] * (len(wrong) > _TOLD)
    return _part(theirs.what, Likeness.DIFFERS, "; ".join(told + more))


def _part(what: str, result: Likeness, detail: str = "") -> DevicePart:
    return DevicePart(what=what, result=result, detail=printable(detail, _LONGEST))


def check_answer(checked: Checked, ledgers: Sequence[DeviceLedger], pages: int) -> None:
    """Refuse, at the source, an answer that leaves out a page, a device, or a part of one."""
    if checked.pages != pages:
        raise corrupt(f"the destination compared {checked.pages} pages of {pages}")
    if [verdict.name for verdict in checked.verdicts] != [ledger.name for ledger in ledgers]:
        raise corrupt(f"the destination compared {len(checked.verdicts)} devices of {len(ledgers)}")
    for verdict, ledger in zip(checked.verdicts, ledgers, strict=True):
        told = {part.what: part.result for part in verdict.parts}
        missing = {STATE, *(view.what for view in ledger.views)} - told.keys()
        if missing:
            raise corrupt(f"the destination says nothing of {min(missing)} of {ledger.name}")
        if ledger.why and told[STATE] is Likeness.SAME:
            raise corrupt(f"the destination has compared a state of {ledger.name} that it does not know")


def explain(checked: Checked) -> tuple[Reason, str]:
    """Say what differs, and what could not be compared; the sentence is empty if everything is the same."""
    differs = [f"{checked.mismatched_pages} of {checked.pages} pages differ"] * bool(checked.mismatched_pages)
    differs += [f"{name} differs ({what})" for name, what in checked.mismatched_devices.items()]
    blind = [f"{name} was not compared ({why})" for name, why in checked.devices_not_compared.items()]
    early = []
    if checked.early:
        first = f" ({checked.early_writes[0]})" if checked.early_writes else ""
        early = [f"{checked.early} writes at the destination came before its start{first}"]
    reason = Reason.MISMATCH
    if not differs and (early or blind):
        reason = Reason.LATE_WRITE if early else Reason.NOT_COMPARED
    return reason, printable("; ".join(differs + early + blind), MAX_DETAIL)
