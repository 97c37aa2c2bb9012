# SPDX-License-Identifier: MIT
"""Print events as strace would, with the reason after an error, which no kernel gives.

A printer must cope with any file of events: what does not match the registry is printed as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final

from vfioemu.trace import events as e
from vfioemu.trace import names
from vfioemu.trace.decode import CAPS, CUT, DEFAULT_LIMIT, follower
from vfioemu.trace.names import Style, number, quoted
from vfioemu.uapi.flags import DeviceState, PciIrq, PciRegion
from vfioemu.uapi.hints import Chain, Hint, Items
from vfioemu.uapi.payload import Member, Payload
from vfioemu.uapi.registry import Ioctl as Row
from vfioemu.uapi.registry import lookup
from vfioemu.uapi.structs import DeviceFeature

_PROT: Final = ("PROT_READ", "PROT_WRITE", "PROT_EXEC")
_BYTES: Final = 32
_DEPTH: Final = 20


@dataclass(frozen=True, slots=True)
class Look:
    """Amount and form of the output; the options are strace's.

    Attributes:
        style: -X.
        limit: -s: elements of an array, and four times as many bytes of a read.
        duration: -T.
        clock: -ttt.
        pids: 0 never, 1 when there is more than one, 2 always.
    """

    style: Style = Style.ABBREV
    limit: int = DEFAULT_LIMIT
    duration: bool = False
    clock: bool = False
    pids: int = 1


class Printer:
    """Make lines from events; remembers the first caller, whose calls are printed without a pid until there is another."""

    def __init__(self, look: Look | None = None) -> None:
        self._look = look or Look()
        self._pid = 0
        self._several = False

    def line(self, event: e.AnyEvent) -> str:
        """Format one event, without a newline."""
        return f"{self._head(event)}{self._body(event)}"

    def payload(self, row: Row, tree: Any) -> str:
        """Format the argument of an ioctl alone."""
        return self._argument(row, tree)

    def _head(self, event: e.AnyEvent) -> str:
        head = f"{event.t:.6f} " if self._look.clock else ""
        if not isinstance(event, e.CALLS) or not self._look.pids:
            return head
        self._pid = self._pid or event.pid
        self._several = self._several or event.pid != self._pid
        return f"[pid {event.pid}] {head}" if self._several or self._look.pids > 1 else head

    def _body(self, event: e.AnyEvent) -> str:
        match event:
            case e.Ioctl():
                new = f"{event.ret}<{names.comment(event.out['is'])}>" if _gives_fd(event) else ""
                return f"ioctl({self._file(event)}, {self._ioctl(event)}){self._end(event, new)}"
            case e.Transfer():
                data = self._data(event)
                where = f", {self._place(event.offset, event.region)}" if event.offset is not None else ""
                return f"{event.op}({self._file(event)}, {data}, {event.size}{where}){self._end(event)}"
            case e.Mmap():
                flags = "MAP_SHARED" if event.shared else "MAP_PRIVATE"
                return (
                    f"mmap(NULL, {event.size}, {self._prot(event.prot)}, {flags}, {self._file(event)}, "
                    f"{self._place(event.offset, event.region)}){self._end(event)}"
                )
            case e.Open():
                result = "" if event.errno else f"?{_label(event)}"
                return f"open({quoted(event.path)}){self._end(event, result)}"
            case e.Close():
                left = f" /* {_dropped(event.mappings)} */" if event.mappings else ""
                return f"close({self._file(event)}){self._end(event)}{left}"
            case e.Dirtied():
                how = f" ({names.comment(event.how)})" if event.how else ""
                shown = [f"{number(iova)}+{number(size)}" for iova, size in event.ranges[: self._look.limit]]
                if event.count > len(shown):
                    shown.append(f"{CUT} {event.count} in all")
                return f"--- {names.comment(event.device)} dirtied {', '.join(shown)}{how} ---"
            case e.State():
                old, new = (names.enum(DeviceState, value, Style.ABBREV) for value in (event.old, event.new))
                return f"--- {names.comment(event.device)} state {old} -> {new} ---"
            case e.Interrupt():
                index = names.enum(PciIrq, event.index, self._look.style)
                deaf = "" if event.eventfd else " (no eventfd)"
                return f"--- {names.comment(event.device)} interrupt {index}[{event.vector}]{deaf} ---"
            case e.Disconnected():
                who = f"{event.pid} ({names.comment(event.comm)})" if event.comm else str(event.pid)
                return f"+++ client {who} disconnected, {_dropped(event.mappings)} +++"
            case e.Remark():
                return f"--- pid {event.pid}: {names.comment(event.text)} ---"
            case e.Lost():
                return f"--- {event.count} events lost: the reader was too slow ---"

    # --- what all calls have ---

    def _file(self, event: e.Call) -> str:
        return f"{'?' if event.fd is None else event.fd}{_label(event)}"

    def _end(self, event: e.Call, result: str = "") -> str:
        took = f" <{event.dur_us // 1_000_000}.{event.dur_us % 1_000_000:06d}>" if self._look.duration else ""
        if event.errno is None:
            return f" = {result or event.ret}{took}"
        text = names.errno_text(event.errno)
        why = f" /* {names.comment(event.why)} */" if event.why else ""
        return f" = -1 {event.errno}{f' ({text})' if text else ''}{why}{took}"

    def _data(self, event: e.Transfer) -> str:
        """Format the first bytes of a transfer; "..." if they are unknown."""
        if event.data is None:
            return '""' if event.errno is None and not event.ret else "..."
        shown = event.data[: _BYTES * self._look.limit // DEFAULT_LIMIT]
        moved = event.size if event.errno else event.ret
        return f"{quoted(shown)}{CUT if len(shown) < moved else ''}"

    def _place(self, offset: int | None, region: tuple[int, int] | None) -> str:
        where = number(offset or 0)
        if region is None or self._look.style is Style.RAW:
            return where
        return f"{where} /* {names.enum(PciRegion, region[0], self._look.style)}+{number(region[1])} */"

    def _prot(self, prot: int) -> str:
        if self._look.style is Style.RAW:
            return number(prot)
        parts = [name for bit, name in enumerate(_PROT) if prot >> bit & 1]
        if rest := prot >> len(_PROT) << len(_PROT):
            parts.append(f"{number(rest)} /* PROT_??? */")
        return "|".join(parts) or "PROT_NONE"

    # --- ioctl ---

    def _ioctl(self, event: e.Ioctl) -> str:
        """Format everything between the fd and the closing parenthesis."""
        row = lookup(event.kind, event.cmd) if event.kind else None
        name = number(event.cmd) if self._look.style is Style.RAW else event.ioctl
        if event.arg is None:
            return name
        text = f"{name}, {self._argument(row, event.arg)}"
        if event.out is not None and not _gives_fd(event):
            text += f" => {self._out(row, event.arg, event.out)}"
        return text

    def _argument(self, row: Row | None, arg: Any) -> str:
        if row is not None and isinstance(arg, int):
            if row.argument == "value" and row.values is not None:
                return names.enum(row.values, arg, self._look.style)
            return number(arg)
        if row is not None and row.payload is not None and isinstance(arg, dict):
            return self._struct(row.payload, arg, row, arg)
        return self._plain(arg)

    def _out(self, row: Row | None, arg: Any, out: Any) -> str:
        """Format what has changed; a struct around a single bitmap or field is left out."""
        if row is None or row.payload is None or not isinstance(out, dict):
            return self._plain(out)
        cls: type[Payload] | None = row.payload
        known: dict[str, Any] = arg if isinstance(arg, dict) else {}
        while cls is not None and isinstance(out, dict) and len(out) == 1 and not _is_bitmap(out):
            [(name, inner)] = out.items()
            if not isinstance(inner, dict):
                break
            if _is_bitmap(inner):
                return self._bitmap(inner)
            if _is_fd(inner):
                break
            cls = _class_of(cls, name, {**known, **out})
            below = known.get(name)
            known = below if isinstance(below, dict) else {}
            out = inner
        return self._plain(out) if cls is None else self._struct(cls, out, row, known)

    def _struct(
        self, cls: type[Payload], tree: Mapping[str, Any], row: Row | None, known: Mapping[str, Any]
    ) -> str:
        """Format a struct; `known` has fields that `tree` may lack."""
        left = dict(tree)
        parts = [
            f"{member.name}={self._field(cls, member, left.pop(member.name), row)}"
            for member in cls.MEMBERS
            if member.name in left
        ]
        if cls.TAIL in left:
            parts.append(self._tail(cls, left.pop(cls.TAIL), {**known, **tree}))
        if CAPS in left:
            parts.append(f"{CAPS}={self._caps(cls, left.pop(CAPS))}")
        parts += [f"{name}={self._plain(value)}" for name, value in left.items()]
        return f"{{{', '.join(parts)}}}"

    def _field(self, cls: type[Payload], member: Member, value: Any, row: Row | None) -> str:
        if member.nested is not None and isinstance(value, dict):
            return self._struct(member.nested, value, None, value)
        for hint in member.hints:
            if isinstance(hint, Items) and isinstance(value, list):
                return self._array(hint.item, value)
        if not isinstance(value, int) or isinstance(value, bool):
            return self._plain(value)
        if cls is DeviceFeature and member.name == "flags":
            return names.feature_flags(value, self._look.style)
        named = next((hint for hint in member.hints if isinstance(hint, type)), None)
        if named is None and row is not None and member.name == "flags":
            named = row.flags
        hints = (*member.hints, Hint.HEX) if member.name == "flags" else member.hints
        return self._number(named, hints, value)

    def _number(self, named: type | None, hints: tuple[object, ...], value: int) -> str:
        if named is not None and issubclass(named, IntFlag) and value >= 0:
            return names.flags(named, value, self._look.style)
        if named is not None and issubclass(named, IntEnum):
            return names.enum(named, value, self._look.style)
        return number(value) if Hint.HEX in hints else str(value)

    def _tail(self, cls: type[Payload], value: Any, known: Mapping[str, Any]) -> str:
        """Format the flexible array member; a struct there is printed without a name."""
        if isinstance(value, list):
            item = next((f.item for f in cls.FOLLOWS if not f.flag or _int(known, "flags") & f.flag), None)
            return f"{cls.TAIL}={self._array(item, value)}"
        inner = _class_of(cls, cls.TAIL, known)
        return (
            self._plain(value)
            if inner is None or not isinstance(value, dict)
            else self._struct(inner, value, None, value)
        )

    def _array(self, item: Any, values: list[Any]) -> str:
        parts = []
        for n, value in enumerate(values):
            if value == CUT or n == self._look.limit:
                parts.append(CUT)
                break
            if isinstance(item, type) and issubclass(item, Payload) and isinstance(value, dict):
                parts.append(self._struct(item, value, None, value))
            else:
                parts.append(self._plain(value))
        return f"[{', '.join(parts)}]"

    def _caps(self, cls: type[Payload], caps: Any) -> str:
        chain = next((h for m in cls.MEMBERS for h in m.hints if isinstance(h, Chain)), None)
        if chain is None or not isinstance(caps, list):
            return self._plain(caps)
        return f"[{', '.join(self._cap(chain, cap) for cap in caps)}]"

    def _cap(self, chain: Chain, cap: Any) -> str:
        if not isinstance(cap, dict) or not isinstance(cap.get("id"), int):
            return self._plain(cap)
        rest = {name: value for name, value in cap.items() if name not in ("id", "version")}
        parts = [f"id={names.enum(chain.ids, cap['id'], self._look.style)}"]
        if "version" in cap:
            parts.append(f"version={self._plain(cap['version'])}")
        cls = chain.caps.get(cap["id"])
        body = self._struct(cls, rest, None, rest) if cls is not None else self._plain(rest)
        return f"{{{', '.join([*parts, body[1:-1]]) if rest else ', '.join(parts)}}}"

    def _bitmap(self, bits: Mapping[str, Any]) -> str:
        dirty, count, ranges = bits["dirty"], bits["count"], bits["ranges"]
        shown = [f"{number(iova)}+{number(size)}" for iova, size in ranges[: self._look.limit]]
        if count > len(shown):
            shown.append(CUT)
        cut = ", the rest not recorded" if bits.get("cut") else ""
        where = f", {count} ranges: {', '.join(shown)}" if shown else ""
        return f"[{dirty} dirty{where}{cut}]"

    def _plain(self, value: Any, depth: int = 0) -> str:
        """Format a value of any type."""
        if depth > _DEPTH:
            return CUT
        if isinstance(value, dict):
            if _is_fd(value):
                return f"{value['fd']}<{names.comment(value['is'])}>"
            if _is_bitmap(value):
                return self._bitmap(value)
            inner = (f"{names.comment(str(k))}={self._plain(v, depth + 1)}" for k, v in value.items())
            return f"{{{', '.join(inner)}}}"
        if isinstance(value, list):
            cut = value[: self._look.limit]
            parts = [CUT if v == CUT else self._plain(v, depth + 1) for v in cut]
            return f"[{', '.join([*parts, CUT] if len(value) > len(cut) else parts)}]"
        return quoted(value) if isinstance(value, str) else "NULL" if value is None else str(value)


def _label(event: e.Call) -> str:
    return f"<{names.comment(names.file_label(event.kind, event.file))}>" if event.kind else ""


def _gives_fd(event: e.Ioctl) -> bool:
    """Return True if the call returned an fd with a description."""
    return isinstance(event.out, dict) and _is_fd(event.out) and event.out["fd"] == event.ret


def _class_of(cls: type[Payload], name: str, known: Mapping[str, Any]) -> type[Payload] | None:
    """Return the struct in a field, or the one that follows."""
    for member in cls.MEMBERS:
        if member.name == name:
            return member.nested
    if name != cls.TAIL:
        return None
    follow = follower(cls, {"flags": _int(known, "flags")})
    item = None if follow is None or follow.count else follow.item
    return item if isinstance(item, type) and issubclass(item, Payload) else None


def _int(tree: Mapping[str, Any], name: str) -> int:
    value = tree.get(name)
    return value if isinstance(value, int) else 0


def _is_fd(tree: Mapping[str, Any]) -> bool:
    return tree.keys() == {"fd", "is"} and isinstance(tree["fd"], int) and isinstance(tree["is"], str)


def _is_bitmap(tree: Mapping[str, Any]) -> bool:
    if not tree.keys() >= {"dirty", "count", "ranges"} or not isinstance(tree["ranges"], list):
        return False
    return (
        isinstance(tree["dirty"], int)
        and isinstance(tree["count"], int)
        and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
            for pair in tree["ranges"]
        )
    )


def _dropped(mappings: int) -> str:
    return f"{mappings} mapping{'' if mappings == 1 else 's'} dropped"
