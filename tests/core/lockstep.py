# SPDX-License-Identifier: MIT
"""The same calls on a kernel release and on the one that it is based on: they differ by the rules of rules.py.

It is wrong that two releases differ where no rule says so, and as wrong that they do not differ where one does.
"""

from tests.core.calls import KINDS, Answer, Call, Side
from tests.core.rules import Pair, Rule, rules_of
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.profile import Profile


class Disagreement(AssertionError):
    """Two releases differ where they must not, or agree where they must not."""


def run(calls: list[Call], new: Profile, rules: tuple[Rule, ...] | None = None) -> set[str]:
    """Make calls on a release and on the one that it is based on; the names of the rules by which their answers differed.

    Args:
        calls: in this order.
        new: the release.
        rules: by default those about the facts that it says it has differently.

    Raises:
        Disagreement: no rule says so, or a rule says otherwise; or an errno is not among those that are documented.
    """
    assert new.base is not None
    pair = Pair(new.base, new)
    rules = rules_of(pair) if rules is None else rules
    old_side, new_side = Side(pair.old.name), Side(pair.new.name)
    used = set()
    for call in calls:
        found = [(rule, rule.applies(call, old_side, pair)) for rule in rules if _can_be_made(call, old_side)]
        verdicts = [(rule, allowed) for rule, allowed in found if allowed is not None]
        old, new_ = old_side.make(call), new_side.make(call)
        if old is None or new_ is None:
            if old is not new_:
                raise Disagreement(f"{call}: one of them could not make it")
            continue
        _refuse_undocumented(call, pair, old, new_)
        for rule, allowed in verdicts:
            if not allowed(old, new_):
                raise Disagreement(f"{call}: {old} and {new_}, but by the rule: {rule.name} ({rule.where})")
            if old != new_:
                used.add(rule.name)
        if old != new_ and not verdicts:
            raise Disagreement(f"{call}: {old} and {new_}, and no rule says so")
        if old_side.holdings() != new_side.holdings():
            if not any(rule.parts for rule, _ in verdicts):
                raise Disagreement(f"{call}: they hold {old_side.holdings()} and {new_side.holdings()}")
            break
        if old != new_ and any(rule.parts for rule, _ in verdicts):
            break
    return used


def _refuse_undocumented(call: Call, pair: Pair, old: Answer, new: Answer) -> None:
    """The errnos of ioctls are those that the support page lists for that release."""
    if call.name not in KINDS:
        return
    for profile, answer in ((pair.old, old), (pair.new, new)):
        errnos = profile.errnos(FdKind(KINDS[call.name]), getattr(c, call.name))
        if isinstance(answer.result, str) and answer.result not in errnos:
            raise Disagreement(f"{call}: {answer.result} of {profile.name} is none of {sorted(errnos)}")


def _can_be_made(call: Call, side: Side) -> bool:
    return side.is_open(
        KINDS.get(call.name, "device" if call.name in ("pin", "unpin", "write") else "group"), call.on
    )
