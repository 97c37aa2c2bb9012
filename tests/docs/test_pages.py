# SPDX-License-Identifier: MIT
"""The pages are true of the tree: links lead somewhere, the index leads everywhere, promises have their tests."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"
ALL = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "protocol").glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
QUESTIONS = {
    "how to run QEMU": ("README.md", "qemu-system-x86_64"),
    "why an ioctl was refused": ("docs/trace.md", "= -1 E"),
    "how to write a device": ("docs/devices.md", "DeviceModel"),
    "how to add an ioctl": ("docs/howto/ioctl.md", "registry.py"),
    "how a change lands": ("CONTRIBUTING.md", "## How a change lands"),
    "how to report a vulnerability": ("SECURITY.md", "Report a vulnerability"),
    "how a dirty bit travels": ("docs/design.md", "## How a dirty bit travels"),
    "how to add a kernel release": ("docs/howto/release.md", "1."),
}


def links(page):
    """The files that a page links to, with the heading that is meant."""
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        if not target.startswith(("https://", "http://", "../security/")):
            path, _, heading = target.partition("#")
            yield (page.parent / path).resolve() if path else page, heading


def anchors(page):
    """The anchors of a page's headings, as a Markdown viewer makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, heading in links(page):
        assert target.exists(), target
        assert not heading or heading in anchors(target), f"{target}#{heading}"


def test_every_page_can_be_reached_from_the_index():
    pages = {*DOCS.rglob("*.md"), *(ROOT / "protocol").glob("*.md")} - {DOCS / "index.md"}
    seen, ahead = set(), [DOCS / "index.md"]
    while ahead:
        for target, _ in links(ahead.pop()):
            if target.suffix == ".md" and target not in seen:
                seen.add(target)
                ahead.append(target)

    assert pages - seen == set()


@pytest.mark.parametrize(("page", "word"), QUESTIONS.values(), ids=QUESTIONS)
def test_what_people_ask_for_first_is_two_clicks_away(page, word):
    first = {target for target, _ in links(DOCS / "index.md") if target.suffix == ".md"}
    second = {target for one in first for target, _ in links(one)}

    assert ROOT / page in first | second
    assert word in (ROOT / page).read_text(encoding="utf-8")


def promised():
    return re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (DOCS / "promises.md").read_text(encoding="utf-8"))


def test_every_promise_has_its_tests():
    rows = re.findall(
        r"^\| (?!promise|---)(.*) \| (.*) \|$", (DOCS / "promises.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    assert [promise for promise, keepers in rows if "`tests/" not in keepers] == []


@pytest.mark.parametrize(("file", "name"), sorted(set(promised())))
def test_what_keeps_a_promise_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }

    assert tests
    assert not name or name in tests


def architecture():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "packaging/architecture.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_imports():
    """`python packaging/architecture.py --write` makes it anew."""
    assert Path(DOCS / "architecture.md").read_text(encoding="utf-8") == architecture().page()


def test_a_circle_is_drawn_as_one():
    drawn = architecture().floors({("a", "b"), ("b", "c"), ("a", "c"), ("c", "b")})

    assert {("b", "c"), ("c", "b")} <= drawn
    assert ("a", "c") not in drawn or ("a", "b") not in drawn
