# SPDX-License-Identifier: MIT
"""Mistakes to plant into a copy of the C kernel, of the kind that one makes, and the fuzz target that must find each."""

import shutil
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"


@dataclass(frozen=True)
class Mutant:
    """One mistake: `right` stands once in `file`, and `wrong` is written in its place."""

    name: str
    what: str
    target: str
    file: str
    right: str
    wrong: str


MUTANTS = [
    Mutant(
        "lost_bit",
        "a merge from odd bits drops the last one",
        "bitmap",
        "vfe_bitmap.c",
        "\t\tif (bits)\n\t\t\tvfe_or_word(",
        "\t\tif (src_bit % 8 && n == 64)\n\t\t\tbits &= INT64_MAX;\n\t\tif (bits)\n\t\t\tvfe_or_word(",
    ),
    Mutant(
        "summary",
        "a part of a chunk is taken for all of it",
        "bitmap",
        "vfe_walk.h",
        "chunk < walk->chunks.full_hi;",
        "chunk < walk->chunks.full_hi + 1;",
    ),
    Mutant(
        "bound",
        "a lookup goes one byte beyond a mapping",
        "dma",
        "vfe_index.c",
        "if (!rank || entry->last < iova)",
        "if (!rank || entry->last + 1 < iova)",
    ),
    Mutant(
        "residue",
        "residue is lost in the last word",
        "bitmap",
        "vfe_harvest.c",
        "for (size_t i = 0; i < 2 && tail + i < sink->total; i++)",
        "for (size_t i = 1; i < 2 && tail + i < sink->total; i++)",
    ),
    Mutant(
        "log",
        "the log marks one page too few",
        "dma",
        "vfe_log.c",
        "uint64_t to = last < range->last ? last : range->last;\n",
        "uint64_t to = last < range->last ? last : range->last;\n\n\t\tif (to > from)\n\t\t\tto--;\n",
    ),
    Mutant(
        "zero",
        "the last line of a page is not looked at",
        "sums",
        "vfe_ops.c",
        "static bool is_zero(const void *data, size_t nbytes)\n{\n",
        "static bool is_zero(const void *data, size_t nbytes)\n{\n\tif (nbytes > 64)\n\t\tnbytes -= 64;\n",
    ),
    Mutant(
        "hole",
        "a hole is taken to reach to the end of the run",
        "sums",
        "vfe_holes.c",
        "return (holes->data < end ? holes->data : end) - page;",
        "return end - page;",
    ),
    Mutant(
        "sum",
        "the sum of a page is written for its neighbour",
        "sums",
        "vfe_sums.c",
        "&s->sums[first + i]);",
        "&s->sums[first + i / 2 * 2]);",
    ),
    Mutant(
        "resume",
        "what had no room is left out when it goes on",
        "sums",
        "vfe_sums.c",
        "\t\tcursor[1] += done;\n",
        "\t\tcursor[1] += done + (done > 4 && done < count);\n",
    ),
    Mutant(
        "stripe",
        "the last stripe of a page is not summed",
        "pages",
        "vfe_pages.c",
        "for (size_t at = 0; at < nbytes; at += STRIPE_BYTES) {",
        "for (size_t at = 0; at + STRIPE_BYTES < nbytes || !at; at += STRIPE_BYTES) {",
    ),
    Mutant(
        "guard",
        "a copy says that one byte more was there",
        "guard",
        "vfe_guard.c",
        "\treturn done;\n",
        "\treturn done + (done < size);\n",
    ),
]


def copy_sources(to):
    """Copy the C kernel, its tests and fuzz targets to the directory `to`."""
    to.mkdir()
    for file in CSRC.glob("*.[ch]"):
        shutil.copy(file, to)


def plant(mutant, sources):
    """Make the mistake in the copy `sources`.

    Raises:
        LookupError: the text that it replaces is not there once: the code has changed, and the mutant must follow.
    """
    file = sources / mutant.file
    text = file.read_text(encoding="utf-8")
    if (times := text.count(mutant.right)) != 1:
        raise LookupError(f"{mutant.name}: {mutant.file} has {times} times, not once: {mutant.right!r}")
    file.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
