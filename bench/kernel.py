# SPDX-License-Identifier: MIT
"""The C kernel against memcpy and bare atomics (csrc/bench_kernel.c), and a batch from Python against the loop in C."""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.build import OUT
from bench.harness import ROUNDS, Row, compare, interleave
from vfioemu._kernel import ffi
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.dma import DmaBatch, Op
from vfioemu.native.index import PROT_READ, PROT_WRITE, IovaIndex

CSRC: Final = Path(__file__).parents[1] / "csrc"
FLAGS: Final = ("-std=gnu11", "-O3", "-pthread")
"""As meson builds what the loss test runs on and what the extension is made of."""

BATCH: Final = 256
TRANSFER: Final = 64
GUEST: Final = 1 << 20
REPEATS: Final = 500


def compiled(name: str, *more: str) -> Path:
    """`name`.c of csrc with the whole kernel, as a program or, with -shared, a library."""
    OUT.mkdir(parents=True, exist_ok=True)
    target = OUT / name
    sources = [CSRC / f"{name}.c", *sorted(CSRC.glob("vfe_*.c"))]
    newest = max(file.stat().st_mtime for file in [*sources, *CSRC.glob("*.h")])
    if not target.exists() or target.stat().st_mtime < newest:
        fresh = OUT / f".{name}.{os.getpid()}"
        subprocess.run(["cc", *FLAGS, *more, "-o", str(fresh), *map(str, sources), "-lm"], check=True)
        fresh.rename(target)
    return target


def run() -> Iterator[Row]:
    """All rows; a program prints them as it goes."""
    with subprocess.Popen(
        [compiled("bench_kernel"), str(ROUNDS + 2)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            ours, floor = ([one * 1e-9 for one in row[side]] for side in ("ours", "floor"))
            yield compare("kernel", f"{row['name']}, {row['detail']}", ours, floor, goal=row["goal"])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    yield from batch_from_python()


def batch_from_python() -> Iterator[Row]:
    """Batches of 256 descriptors of 64 bytes: a loop in Python around the cffi call, and the same loop in C."""
    guest, local = bytearray(GUEST), bytearray(BATCH * TRANSFER)
    index, bitmap = IovaIndex(), DirtyBitmap(GUEST // 4096)
    index.insert(0, GUEST, PROT_READ | PROT_WRITE, int(ffi.cast("uintptr_t", ffi.from_buffer(guest))), bitmap)
    batch = DmaBatch(local, BATCH)
    for number in range(BATCH):
        batch.add(Op.WRITE, number * 2654435761 % (GUEST // TRANSFER) * TRANSFER, TRANSFER, number * TRANSFER)

    library = ctypes.CDLL(str(compiled("bench_batch", "-shared", "-fPIC")))
    library.bench_batches.restype = ctypes.c_size_t
    descriptors, buffer = batch.cdata
    pointers = [
        ctypes.c_void_p(int(ffi.cast("uintptr_t", pointer))) for pointer in (index.cdata, descriptors, buffer)
    ]

    def in_python() -> float:
        start = perf_counter()
        for _ in range(REPEATS):
            if index.dma(batch) != BATCH:
                raise AssertionError("a descriptor was not done")
        return perf_counter() - start

    def in_c() -> float:
        start = perf_counter()
        done = library.bench_batches(
            pointers[0],
            pointers[1],
            ctypes.c_size_t(BATCH),
            pointers[2],
            ctypes.c_size_t(len(local)),
            REPEATS,
        )
        taken = perf_counter() - start
        if done != REPEATS * BATCH:
            raise AssertionError("a descriptor was not done")
        return taken

    times = interleave({"python": in_python, "c": in_c}, ROUNDS + 2)
    yield compare(
        "kernel", "DMA batch of 256 from Python / the loop in C, 64 B", times["python"], times["c"], goal=1.2
    )
