# SPDX-License-Identifier: MIT
"""Processes of every start method, asyncio, sendfile, mmap, and names that are none."""

import asyncio
import mmap
import multiprocessing
import os
import pathlib


def square(number):
    """Work for a pool."""
    return number * number, os.path.exists("/sys/class")


async def shell():
    """What a child of asyncio's says."""
    child = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        "echo a; echo b >&2; exit 3",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return *(await child.communicate()), child.returncode


def what(function, path):
    """What a function says of a path."""
    try:
        result = function(path)
    except OSError as error:
        return error.errno
    return sorted(result) if isinstance(result, list) else result


def main():
    """Print what must be the same everywhere."""
    print(asyncio.run(shell()))
    for method in ("spawn", "fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map(square, range(4)))
    pathlib.Path("big").write_bytes(bytes(1 << 20))
    with (
        open("big", "rb") as big,
        open("copy", "wb") as copy,
        mmap.mmap(big.fileno(), 0, prot=mmap.PROT_READ) as all_of_it,
    ):
        print(os.sendfile(copy.fileno(), big.fileno(), 0, 1 << 20), len(all_of_it))
        print(os.copy_file_range(big.fileno(), copy.fileno(), 100, 0, 0))
    names = [
        b"/sys/\xff\xfe",
        b"/" + b"a" * 5000,
        b"/sys/" + b"a" * 300,
        b"/sys/" + b"../" * 1000,
        b"//sys//class///net/lo",
    ]
    names += [
        b"/sys/class/net/lo/",
        b"/dev/null/",
        b"/sys/class/../../etc/passwd",
        b"/../sys/class/net",
        b"",
        b"\n",
    ]
    functions = [os.listdir, os.readlink, os.path.realpath, os.listxattr, lambda path: os.stat(path).st_mode]
    for name in names:
        print(name[:30], [what(function, name) for function in functions])
    directory = os.open("/sys/class", os.O_PATH)
    print(sorted(os.listdir(f"/proc/self/fd/{directory}/net")), os.stat("net", dir_fd=directory).st_mode)


if __name__ == "__main__":
    main()
