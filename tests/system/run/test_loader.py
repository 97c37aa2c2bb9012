# SPDX-License-Identifier: MIT
"""Which programs the library can be loaded into, and how: what is refused is told why."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sample import sampled
from tests.system.run.helpers import PATIENCE, Runner, compile_c
from vfioemu import preload
from vfioemu.cli import program
from vfioemu.cli.errors import CommandError

LOADERS = sorted(Path("/").glob("lib64/ld-linux-*.so.2"))


@pytest.mark.skipif(not LOADERS, reason="this system's dynamic linker is not glibc's for 64 bits")
def test_the_dynamic_linker_is_a_program_that_can_be_preloaded() -> None:
    command = (str(LOADERS[0]), "/bin/true")
    assert program.find(command, preload.library()).arguments == command


@pytest.mark.skipif(not LOADERS, reason="this system's dynamic linker is not glibc's for 64 bits")
def test_another_program_without_a_dynamic_linker_is_refused(tmp_path: Path) -> None:
    static = tmp_path / "static"
    shutil.copy(LOADERS[0], static)
    with pytest.raises(CommandError, match="statically linked"):
        program.find((str(static),), preload.library())


def refused(path: Path) -> str:
    with pytest.raises(CommandError) as caught:
        program.find((str(path),), preload.library())
    assert caught.value.exit_code == program.CANNOT_RUN
    return f"{caught.value.message} {caught.value.hint}"


C = "int main(void) { return 0; }\n"
SECTION = '__attribute__((used, section(".go.buildinfo"))) char info[32] = "x";\n'
NOTE = (
    '__attribute__((used, section(".note.go.buildid"), aligned(4)))\n'
    'const struct { int name, size, kind; char text[8]; } note = { 4, 4, 4, "Go\\0\\0abc" };\n'
)
MAGIC = '__attribute__((used, aligned(16))) char info[32] = "\\xff Go buildinf:";\n'


def compiled(folder: Path, text: str, *options: str) -> Path:
    (folder / "program.c").write_text(text, encoding="ascii")
    return compile_c(folder / "program.c", folder / "program", *options)


def without_sections(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[58:64] = bytes(6)  # e_shentsize, e_shnum, e_shstrndx
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mark", [SECTION, NOTE, MAGIC], ids=["section", "note", "magic"])
@pytest.mark.parametrize("options", [["-pie"], ["-no-pie"], ["-static"]], ids=" ".join)
def test_go_is_refused_however_it_is_linked(tmp_path: Path, mark: str, options: list[str]) -> None:
    path = compiled(tmp_path, mark + C, *options)
    if mark is not SECTION:
        without_sections(path)

    said = refused(path)

    assert "made with Go" in said
    assert "no build of it will do" in said
    assert "a dynamically linked build" not in said


def test_script_for_go_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{compiled(tmp_path, SECTION + C)}\n", encoding="ascii")
    script.chmod(0o755)

    assert "made with Go" in refused(script)


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        ("/lib/ld-musl-x86_64.so.1", "musl"),
        ("/lib/ld64-uClibc.so.0", "uClibc"),
        ("/system/bin/linker64", "Android's"),
    ],
)
def test_other_libcs_are_named(tmp_path: Path, loader: str, name: str) -> None:
    path = compiled(tmp_path, C, f"-Wl,--dynamic-linker={loader}")

    assert f"linked with {name}" in refused(path)


def test_what_makes_no_sense_is_left_to_the_kernel(tmp_path: Path) -> None:
    path = compiled(tmp_path, C)
    data = path.read_bytes()
    for size in (64, 65, 200, 700):
        (tmp_path / "cut").write_bytes(data[:size])
        (tmp_path / "cut").chmod(0o755)
        assert program.find((str(tmp_path / "cut"),), preload.library()).path == str(tmp_path / "cut")


CHILDREN = """
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <unistd.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    int fd = open("/dev/vfio/vfio", O_RDWR);
    char *small = malloc(4);
    if (ioctl(fd, VFIO_GET_API_VERSION) != 0)
        return 1;
    memset(small, 'x', 4);
    if (argc > 1 && !strcmp(argv[1], "overflow"))
        printf("%d\\n", small[argc + 1]);
    free(small);
    if (argc > 1 && !strcmp(argv[1], "children")) {
        setenv("SELF", argv[0], 1);
        return WEXITSTATUS(system("case $LD_PRELOAD in *san*) exit 9;; esac; ls /dev/vfio && \\"$SELF\\""));
    }
    return 7;
}
"""


@pytest.mark.parametrize("kind", sampled(["address", "thread", "undefined"]))
def test_sanitized_program_runs(tmp_path: Path, kind: str) -> None:
    try:
        path = compiled(tmp_path, CHILDREN, f"-fsanitize={kind}")
        subprocess.run([path], check=False, capture_output=True, timeout=PATIENCE)
    except subprocess.CalledProcessError:
        pytest.skip(f"this compiler has no -fsanitize={kind}")
    run = Runner("--device", "mtty")

    plain, below, parent = run(path), run("sh", "-c", f"exec {path}"), run(path, "children")

    assert (plain.returncode, plain.stderr) == (7, "")
    assert (below.returncode, below.stderr) == (7, "")
    assert parent.returncode == 7, parent.stderr
    assert re.fullmatch(r"\d+\nvfio\n", parent.stdout), parent.stdout
    if kind == "address":
        assert "heap-buffer-overflow" in run(path, "overflow", "x").stderr
