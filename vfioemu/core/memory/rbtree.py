# SPDX-License-Identifier: MIT
"""The kernel's red-black tree (lib/rbtree.c), shape for shape.

Any ordered container would do, but for one quirk: in Linux 6.12 a mapping that ends at 2^64 has the end 0, and a lookup
that meets it on its way from the root turns right where it should turn left (vfio_find_dma()). Which lookups meet it
depends on how the tree is balanced, so the tree has to be balanced as the kernel's is: same rotations, same successor.
"""

from typing import Generic, Self, TypeVar

N = TypeVar("N", bound="Node")


class Node:
    """A node of a tree; what is stored is a subclass."""

    __slots__ = ("left", "parent", "red", "right")

    def __init__(self) -> None:
        self.parent: Self | None = None
        self.left: Self | None = None
        self.right: Self | None = None
        self.red = True


class Tree(Generic[N]):
    """A red-black tree that leaves the order to whoever links nodes into it."""

    __slots__ = ("count", "root")

    def __init__(self) -> None:
        self.root: N | None = None
        self.count = 0

    def first(self) -> N | None:
        """rb_first()."""
        node = self.root
        while node is not None and node.left is not None:
            node = node.left
        return node

    @staticmethod
    def next(node: N) -> N | None:
        """rb_next()."""
        at = node.right
        if at is not None:
            while at.left is not None:
                at = at.left
            return at
        child, at = node, node.parent
        while at is not None and child is at.right:
            child, at = at, at.parent
        return at

    def link(self, node: N, parent: N | None, left: bool) -> None:
        """rb_link_node() as `parent`'s child, and rb_insert_color()."""
        node.parent, node.left, node.right, node.red = parent, None, None, True
        if parent is None:
            self.root = node
        elif left:
            parent.left = node
        else:
            parent.right = node
        self.count += 1
        self._insert_color(node)

    def erase(self, node: N) -> None:
        """rb_erase()."""
        self.count -= 1
        rebalance = self._unlink(node)
        if rebalance is not None:
            self._erase_color(rebalance)
        node.parent = node.left = node.right = None

    def _replace(self, old: N, new: N | None, parent: N | None) -> None:
        if parent is None:
            self.root = new
        elif parent.left is old:
            parent.left = new
        else:
            parent.right = new
        if new is not None:
            new.parent = parent

    def _rotate(self, node: N, left: bool) -> None:
        """Put the right (left) child in `node`'s place, and `node` to its left (right)."""
        child = node.right if left else node.left
        if child is None:
            raise AssertionError("there is nothing to rotate up")
        inner = child.left if left else child.right
        if left:
            node.right, child.left = inner, node
        else:
            node.left, child.right = inner, node
        if inner is not None:
            inner.parent = node
        self._replace(node, child, node.parent)
        node.parent = child

    def _insert_color(self, node: N) -> None:
        parent = node.parent
        while parent is not None and parent.red:
            grand = parent.parent
            if grand is None:
                raise AssertionError("the root is red")
            left = parent is grand.left
            uncle = grand.right if left else grand.left
            if uncle is not None and uncle.red:
                parent.red = uncle.red = False
                grand.red = True
                node, parent = grand, grand.parent
                continue
            if node is (parent.right if left else parent.left):
                self._rotate(parent, left)
                parent = node
            parent.red, grand.red = False, True
            self._rotate(grand, not left)
            return
        if parent is None:
            node.red = False

    def _unlink(self, node: N) -> N | None:
        """__rb_erase_augmented(): where a black node is missing below, or None."""
        parent, left, right = node.parent, node.left, node.right
        if left is None or right is None:
            child = right if left is None else left
            self._replace(node, child, parent)
            if child is not None:
                child.red = node.red
                return None
            return None if node.red else parent
        successor = right
        while successor.left is not None:
            successor = successor.left
        child = successor.right
        if successor is right:
            hole = successor
        else:
            above = successor.parent
            if above is None:
                raise AssertionError("a successor below has a parent")
            hole = above
            hole.left = child
            if child is not None:
                child.parent = hole
            successor.right = right
            right.parent = successor
        successor.left = left
        left.parent = successor
        self._replace(node, successor, parent)
        missing = child is None and not successor.red
        if child is not None:
            child.red = False
        successor.red = node.red
        return hole if missing else None

    def _erase_color(self, parent: N) -> None:
        """____rb_erase_color(): the subtree on one side of `parent` has one black node too few."""
        node: N | None = None
        while True:
            left = parent.right is not node
            if parent.left is parent.right:
                raise AssertionError("no sibling below a black hole")
            sibling = parent.right if left else parent.left
            if sibling is None:
                raise AssertionError("no sibling below a black hole")
            if sibling.red:
                sibling.red, parent.red = False, True
                self._rotate(parent, left)
                sibling = parent.right if left else parent.left
                if sibling is None:
                    raise AssertionError("no sibling below a black hole")
            outer, inner = (sibling.right, sibling.left) if left else (sibling.left, sibling.right)
            if outer is None or not outer.red:
                if inner is None or not inner.red:
                    sibling.red = True
                    if parent.red:
                        parent.red = False
                        return
                    node = parent
                    if node.parent is None:
                        return
                    parent = node.parent
                    continue
                self._rotate(sibling, not left)
                inner.red, sibling.red = False, True
                sibling, outer = inner, sibling
            sibling.red = parent.red
            parent.red = outer.red = False
            self._rotate(parent, left)
            return
