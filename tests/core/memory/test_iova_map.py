# SPDX-License-Identifier: MIT
"""The tree of mappings: it stays a red-black tree, and lookups are right but at the top of the address space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.memory.iova_map import Dma, IovaMap

PAGE = 4096
TOP = 1 << 64

scripts = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 4)), max_size=120)


def make(iova, size, dmas):
    dma = Dma(iova, 0, 3, AddressSpace(), ipc_lock=True)
    dmas.link(dma)
    dmas.grow(dma, size)
    return dma


def black_height(node, parent=None):
    """Check a subtree: parents, order, no red node below a red one, as many black ones on every path."""
    if node is None:
        return 1
    assert node.parent is parent
    if node.red:
        assert not (node.left and node.left.red)
        assert not (node.right and node.right.red)
    left, right = black_height(node.left, node), black_height(node.right, node)
    assert left == right
    return left + (not node.red)


@given(script=scripts, wraps=st.booleans())
def test_map_stays_balanced_and_finds_what_overlaps(script, wraps):
    dmas, plain = IovaMap(top_wraps=wraps), {}
    for insert, page, count in script:
        iova, size = page * PAGE, count * PAGE
        overlapping = {i for i, dma in plain.items() if i < iova + size and iova < i + dma.size}
        found = dmas.find(iova, size)
        assert (found.iova if found else None) in (overlapping or {None})
        first = dmas.first_overlapping(iova, size)
        assert (first.iova if first else None) == min(overlapping, default=None)
        following = dmas.starting_from(iova)
        assert (following.iova if following else None) == min((i for i in plain if i >= iova), default=None)
        last = dmas.find_last(iova, size)
        assert (last is not None) == any(i < iova + size <= i + dma.size for i, dma in plain.items())
        if insert and not overlapping:
            plain[iova] = make(iova, size, dmas)
        elif not insert and iova in plain:
            dmas.unlink(plain.pop(iova))
        root = dmas._tree.root
        assert root is None or not root.red
        black_height(root)
        assert [dma.iova for dma in dmas] == sorted(plain)
        assert len(dmas) == len(plain)


def shape(node):
    """The tree in brackets; red nodes have an r."""
    if node is None:
        return ""
    return f"({shape(node.left)}{node.iova // PAGE}{'r' if node.red else ''}{shape(node.right)})"


@pytest.mark.parametrize(
    ("inserted", "erased", "expected"),
    [
        ([1, 2, 3], [], "((1r)2(3r))"),
        ([1, 3, 2], [], "((1r)2(3r))"),
        ([1, 2, 3, 4], [], "((1)2(3(4r)))"),
        ([1, 2, 3, 4, 5, 6], [], "((1)2((3)4r(5(6r))))"),
        # a node with two children gives its place to its successor, not to its predecessor
        ([2, 1, 3], [2], "((1r)3)"),
        ([1, 2, 3, 4, 5, 6], [2], "((1)3((4)5r(6)))"),
        ([1, 2, 3, 4], [1], "((2)3(4))"),
    ],
)
def test_tree_has_the_shape_of_the_kernels(inserted, erased, expected):
    dmas = IovaMap(top_wraps=True)
    made = {page: make(page * PAGE, PAGE, dmas) for page in inserted}
    for page in erased:
        dmas.unlink(made[page])

    assert shape(dmas._tree.root) == expected


def test_mapping_up_to_2_to_the_64_is_invisible_when_ends_wrap():
    dmas = IovaMap(top_wraps=True)
    make(TOP - PAGE, PAGE, dmas)

    assert dmas.find(TOP - PAGE, PAGE) is None
    assert dmas.find(TOP - PAGE, 1) is None
    assert dmas.first_overlapping(0, TOP - 1) is None
    assert dmas.tangled


def test_mapping_up_to_2_to_the_64_is_found_when_ends_do_not_wrap():
    dmas = IovaMap(top_wraps=False)
    dma = make(TOP - PAGE, PAGE, dmas)

    assert dmas.find(TOP - PAGE, PAGE) is dma
    assert dmas.find_last(TOP - 2 * PAGE, 2 * PAGE) is dma
    assert dmas.first_overlapping(0, TOP - 1) is dma
    assert not dmas.tangled


def test_mapping_up_to_2_to_the_64_hides_what_is_left_of_it_from_the_walk():
    dmas = IovaMap(top_wraps=True)
    make(TOP // 2, TOP // 2, dmas)
    low = make(0, PAGE, dmas)

    assert dmas.find(0, PAGE) is low
    assert dmas.first_overlapping(0, PAGE) is None
