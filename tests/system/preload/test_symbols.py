# SPDX-License-Identifier: MIT
"""What the library takes over, what it takes from libc, and that it cannot come back to itself."""

import re
import subprocess
from pathlib import Path

import pytest

from vfioemu import preload

SOURCES = Path(__file__).parents[3] / "csrc" / "preload"
EXPORTING = re.compile(r"^(libc_\w+|path\w*)\.c$")
DEFINITION = re.compile(r"^VFP_EXPORT\s[^;(]*?\b(\w+)\(", re.MULTILINE)
BY_MACRO = re.compile(r"^([A-Z][A-Z0-9_]+)\((\w+)[,)]", re.MULTILINE)

FROM_LIBC = {
    # strings and memory, which do nothing else
    "memchr", "memcmp", "memcpy", "memmove", "memset", "stpcpy", "strchr", "strchrnul", "strcmp", "strcpy", "strcspn",
    "strlen", "strncmp", "strnlen", "strrchr", "strspn",
    # once, when the library is loaded
    "__register_atfork", "dladdr", "dlsym", "getauxval", "getenv",
    # the service thread
    "pthread_attr_destroy", "pthread_attr_init", "pthread_attr_setdetachstate", "pthread_attr_setstacksize",
    "pthread_create",
    # errno; and what functions of libc's that allocate are answered with
    "__errno_location", "calloc", "free", "malloc", "realloc", "fopencookie", "qsort", "alphasort", "versionsort",
    # strings of one file; and what programs are executed with
    "strcat", "strstr", "stdout", "environ", "__environ",
    # a sanitizer's, if the program has one
    "__tsan_acquire", "__tsan_release",
    # the C runtime's own
    "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize", "__gmon_start__",
}  # fmt: skip
"""A new name here is a new way for a hook to be called from within itself, or in a signal handler: think twice."""


def symbols(*options):
    out = subprocess.run(
        ["nm", "-D", *options, preload.library()], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def allowed():
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / "preload.map").read_text(), flags=re.DOTALL)
    return set(re.findall(r"(\w+);", text.partition("global:")[2].partition("local:")[0]))


def test_exactly_what_is_listed_is_exported():
    assert symbols("--defined-only") == allowed()


def test_nothing_but_what_is_listed_is_taken_from_libc():
    assert symbols("--undefined-only") <= FROM_LIBC


def test_it_needs_nothing_but_libc():
    out = subprocess.run(
        ["readelf", "-d", preload.library()], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert set(re.findall(r"NEEDED.*\[(.*)\]", out)) <= {
        "libc.so.6",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
    assert "TEXTREL" not in out
    assert "NODELETE" in out


@pytest.fixture(scope="module")
def code():
    """Each file without comments, strings and preprocessor lines."""
    junk = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|^[ \t]*#include.*?$', re.DOTALL | re.MULTILINE)
    return {file.name: junk.sub(" ", file.read_text()) for file in sorted(SOURCES.glob("*.[ch]"))}


def test_exported_functions_are_where_they_belong(code):
    found = {name: text for name, text in code.items() if re.search(r"^\s*VFP_EXPORT\b", text, re.MULTILINE)}

    assert found
    assert [name for name in found if not EXPORTING.match(name)] == []


def calls(text):
    """Names that are called, other than through a member, and not where they are defined."""
    text = DEFINITION.sub(" ", text)
    return set(re.findall(r"(?<![.>\w])(?<!SYS_)(\w+)\s*\(", text))


def test_nothing_calls_what_the_library_exports(code):
    exported = allowed()
    guilty = {}
    for name, text in code.items():
        if name.startswith("libc_syscall") or name == "next.h":  # syscall() hands on to them; declarations
            continue
        # In a file of exported functions, macros define them by name.
        named = {match[1] for match in BY_MACRO.findall(text)}
        body = re.sub(r"^[A-Z][A-Z0-9_]+\([^;{]*?\)$", " ", text, flags=re.MULTILINE) if named else text
        if bad := calls(body) & exported:
            guilty[name] = bad

    assert guilty == {}


def test_the_check_for_recursion_can_fail():
    assert "open" in calls("static int f(void)\n{\n\treturn open(path, 0);\n}\n")
    assert "open" not in calls("static int f(void)\n{\n\treturn vfe.next.open(path, 0);\n}\n")
    assert "open" not in calls("VFP_EXPORT int open(const char *path, int flags, ...)\n{\n}\n")
