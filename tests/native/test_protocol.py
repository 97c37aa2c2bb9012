# SPDX-License-Identifier: MIT
"""The order of marks and harvests, in every interleaving that x86 allows.

csrc/test_loss.c finds what a machine happens to do; this finds what it may do. Threads are little programs over shared
words; each has a store buffer, as x86 has (TSO): a store waits in it, own loads see it, a locked instruction or a fence
drains it first. All reachable states are visited. A page is lost if everybody has ended, one last harvest has run, and
the harvester's copy is not what the page holds.

The programs are those of csrc/vfe_bitmap.h and vfe_take.c with two pages, one word and one chunk: pages are written,
`word` has their bits, `l1` and `upper` (which stands for l2 and l3) are its summaries, `gate` is odd while a window is
open.
Each wrong variant must lose a page here; the stress test is too slow for some of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest

LOCATIONS = ("page0", "page1", "word", "l1", "upper", "gate", "copy0", "copy1")


class Instruction(NamedTuple):
    """One step: what, on which location or label, with a function of the registers."""

    what: str
    where: str = ""
    register: str = ""
    value: Callable[[dict[str, int]], int] = lambda registers: 0


def load(register, where):
    return Instruction("load", where, register)


def store(where, value):
    return Instruction("store", where, value=value if callable(value) else lambda registers: value)


def exchange(register, where):
    return Instruction("exchange", where, register)


def set_bits(where, bits=1):
    return Instruction("or", where, value=lambda registers: bits)


def fence():
    return Instruction("fence")


def label(name):
    return Instruction("label", name)


def jump_if(name, condition):
    return Instruction("jump", name, value=condition)


@dataclass(frozen=True)
class Thread:
    """Where a program is: counter, registers, store buffer (oldest first)."""

    counter: int
    registers: tuple[tuple[str, int], ...]
    buffer: tuple[tuple[str, int], ...]


def write(memory, where, value):
    return tuple(value if name == where else old for name, old in zip(LOCATIONS, memory, strict=True))


def read(memory, thread, where):
    for name, value in reversed(thread.buffer):
        if name == where:
            return value
    return memory[LOCATIONS.index(where)]


def successors(program, memory, thread):
    """What one thread can do next: each (memory, thread)."""
    if thread.buffer:
        (where, value), *rest = thread.buffer
        yield write(memory, where, value), Thread(thread.counter, thread.registers, tuple(rest))
    if thread.counter == len(program):
        return
    step = program[thread.counter]
    registers = dict(thread.registers)
    following = thread.counter + 1
    buffer = thread.buffer
    if step.what in ("exchange", "or", "fence") and buffer:
        return  # waits until it is drained
    match step.what:
        case "load":
            registers[step.register] = read(memory, thread, step.where)
        case "store":
            buffer = (*buffer, (step.where, step.value(registers)))
        case "exchange":
            registers[step.register] = read(memory, thread, step.where)
            memory = write(memory, step.where, 0)
        case "or":
            memory = write(memory, step.where, read(memory, thread, step.where) | step.value(registers))
        case "jump":
            if step.value(registers):
                following = program.index(label(step.where))
        case _:
            assert step.what in ("fence", "label"), step
    yield memory, Thread(following, tuple(sorted(registers.items())), buffer)


def run_alone(program, memory):
    """Run one program to its end with nobody else there."""
    thread = Thread(0, (), ())
    while thread.counter < len(program) or thread.buffer:
        *_, (memory, thread) = successors(program, memory, thread)
    return memory


def lost_pages(programs, last_harvest):
    """Visit every state; how many ends lose the page, and how many ends there are."""
    start = ((0,) * len(LOCATIONS), (Thread(0, (), ()),) * len(programs))
    seen, todo, lost, ends = {start}, [start], 0, 0
    while todo:
        memory, threads = todo.pop()
        ended = True
        for number, (program, thread) in enumerate(zip(programs, threads, strict=True)):
            for after, moved in successors(program, memory, thread):
                ended = False
                state = (after, (*threads[:number], moved, *threads[number + 1 :]))
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        if ended:
            final = run_alone(last_harvest, memory)
            held = dict(zip(LOCATIONS, final, strict=True))
            lost += (held["copy0"], held["copy1"]) != (held["page0"], held["page1"])
            ends += 1
    return lost, ends


# ---- the programs ---------------------------------------------------------------------------------------------------


def summary(where, tag):
    """vfe_summary_set(): test, then set."""
    return [
        load("summary", where),
        jump_if(f"{where}{tag}", lambda registers: registers["summary"]),
        set_bits(where),
        label(f"{where}{tag}"),
    ]


def mark(tag, page, *, fenced=False, gate=True, upper_first=False):
    """vfe_or_word(): vfe_mark(), or vfe_mark_fenced() without its fence."""
    test = [load("bits", "word"), jump_if(f"set{tag}", lambda registers: registers["bits"] >> page & 1)]
    again = [
        jump_if(
            f"quiet{tag}",
            lambda registers: registers["before"] % 2 == 0 and registers["gate"] == registers["before"],
        ),
        label(f"again{tag}"),
        load("before", "gate"),
        jump_if(f"again{tag}", lambda registers: registers["before"] % 2),
        set_bits("word", 1 << page),
        *summary("l1", f"again{tag}"),
        load("gate", "gate"),
        jump_if(f"again{tag}", lambda registers: registers["gate"] != registers["before"]),
        label(f"quiet{tag}"),
    ]
    upper = summary("upper", tag)
    return [
        *(upper if upper_first else []),
        load("before", "gate"),
        *(test if fenced else []),
        set_bits("word", 1 << page),
        label(f"set{tag}"),
        *summary("l1", tag),
        load("gate", "gate"),
        *(again if gate else []),
        *([] if upper_first else upper),
    ]


def writer(*, pages=(0, 1), wrong="", fenced=False):
    """Write each page in its turn and mark it."""
    program = []
    for tag, page in enumerate(pages):
        written = store(f"page{page}", tag + 1)
        barrier = [fence()] if fenced and wrong != "no fence" else []
        marked = mark(tag, page, fenced=fenced, gate=wrong != "no gate", upper_first=wrong == "summary first")
        program += [*marked, written] if wrong == "mark first" else [written, *barrier, *marked]
    return program


def window(tag, body, *, barrier=True):
    """Make the gate odd, look, make it even."""
    return [
        load("window", "gate"),
        store("gate", lambda registers: registers["window"] + 1),
        *([fence()] if barrier else []),
        *body,
        store("gate", lambda registers: registers["window"] + 2),
        label(f"closed{tag}"),
    ]


def copy(tag, page):
    """What is done with a page that is dirty."""
    return [
        jump_if(f"clean{tag}{page}", lambda registers: not registers["word"] >> page & 1),
        load("page", f"page{page}"),
        store(f"copy{page}", lambda registers: registers["page"]),
        label(f"clean{tag}{page}"),
    ]


def harvester(*, harvests=2, windows=True, wrong=""):
    """Take the summaries from the top, then the word, then read the page."""
    program = []
    for tag in range(harvests):
        take_l1 = [exchange("l1", "l1")]
        take_word = [exchange("word", "word")]
        if windows:
            barrier = wrong != "no fence"
            take_l1 = window(f"l1 {tag}", [load("l1", "l1"), store("l1", 0)], barrier=barrier)
            take_word = window(f"word {tag}", [load("word", "word"), store("word", 0)], barrier=barrier)
        nothing_in_l1 = jump_if(f"nothing{tag}", lambda registers: not registers["l1"])
        take = [*take_l1, nothing_in_l1, *take_word]
        if wrong == "word first":
            take = [*take_word, *take_l1, nothing_in_l1]
        program += [
            exchange("upper", "upper"),
            jump_if(f"nothing{tag}", lambda registers: not registers["upper"]),
            *take,
            fence(),
            *copy(tag, 0),
            *copy(tag, 1),
            label(f"nothing{tag}"),
        ]
    return program


LAST = harvester(harvests=1, windows=False)
ONE_PAGE_TWICE = (0, 0)
TWO_PAGES = (0, 1)


@pytest.mark.parametrize("pages", [ONE_PAGE_TWICE, TWO_PAGES])
@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("windows", [False, True])
def test_no_mark_is_lost(pages, fenced, windows):
    lost, ends = lost_pages([writer(pages=pages, fenced=fenced), harvester(windows=windows)], LAST)
    assert ends > 1
    assert lost == 0


@pytest.mark.parametrize("fenced", [False, True])
def test_no_mark_is_lost_between_two_harvesters(fenced):
    """The second finds the first at work and exchanges words; both copy what they are told of."""
    programs = [
        writer(pages=(0,), fenced=fenced),
        harvester(harvests=1),
        harvester(harvests=1, windows=False),
    ]
    assert lost_pages(programs, LAST)[0] == 0


def test_no_mark_is_lost_among_two_writers():
    """Each may find the other's summaries, and both their words."""
    programs = [writer(pages=(0,), fenced=True), writer(pages=(1,)), harvester(harvests=1)]
    assert lost_pages(programs, LAST)[0] == 0


@pytest.mark.parametrize(
    ("wrong", "pages", "fenced", "windows"),
    [
        ("mark first", (0,), False, True),
        ("mark first", (0,), False, False),
        ("no fence", ONE_PAGE_TWICE, True, True),
        ("no fence", ONE_PAGE_TWICE, True, False),
        ("no gate", TWO_PAGES, False, True),
        ("summary first", TWO_PAGES, False, True),
        ("summary first", TWO_PAGES, False, False),
    ],
)
def test_a_wrong_writer_loses(wrong, pages, fenced, windows):
    programs = [writer(pages=pages, wrong=wrong, fenced=fenced), harvester(windows=windows)]
    assert lost_pages(programs, LAST)[0] > 0


@pytest.mark.parametrize("wrong", ["no fence", "word first"])
def test_a_wrong_harvester_loses(wrong):
    assert lost_pages([writer(pages=TWO_PAGES), harvester(wrong=wrong)], LAST)[0] > 0
