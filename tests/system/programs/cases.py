# SPDX-License-Identifier: MIT
"""Which programs from elsewhere are run under `vfioemu run`, how, and what must come of it.

Three kinds. SAME: the program has nothing to do with VFIO; exit status and output are those that it has without the
library. USES: it uses the emulated devices; its output says so. REFUSED: the library cannot reach it; `vfioemu run` says that
before anything is started.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final


class Kind(enum.Enum):
    """What must come of a program; see the module."""

    SAME = "same as without"
    USES = "uses the devices"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A program, and how it is run.

    Attributes:
        name: a row's title.
        command: for bash, in a folder of its own. With REFUSED: words for `vfioemu run` itself.
        kind: see Kind.
        prepare: for bash, before it and without the library: compiles, makes files.
        options: of `vfioemu run`.
        says: patterns that the output must have, each somewhere (USES and REFUSED).
        status: the exit status that USES must have.
        limit: what does not work, and is known; it is printed beside the result.
    """

    name: str
    command: str
    kind: Kind = Kind.SAME
    prepare: str = ":"
    options: Sequence[str] = ("--device=mtty",)
    says: Sequence[str] = ()
    status: int = 0
    limit: str = ""


E1000E: Final = ("--device=e1000e",)
SOURCES: Final = '"$SOURCES"'


def cases() -> Iterator[Case]:
    """All of them, in the order of the report."""
    yield from _everyday()
    yield from _languages()
    yield from _builds()
    yield from _watchers()
    yield from _sanitizers()
    yield from _administration()
    yield from _clients()
    yield from _refused()


def _everyday() -> Iterator[Case]:
    tree = "mkdir -p t/a/b; for i in $(seq 50); do echo $i >t/a/f$i; ln -sf f$i t/a/l$i; done; ln -f t/a/f1 t/a/b/hard"
    yield Case(
        name="bash",
        command="for i in 1 2 3; do echo $((i * i)); done | tac; exec 7<>x; echo a >&7; cat x; trap 'echo bye' EXIT",
    )
    yield Case(
        name="dash, zsh", command="dash -c 'echo $0; test -d /dev; echo $?'; zsh -fc 'print -l ${(o)path}'"
    )
    yield Case(
        name="find",
        prepare=tree,
        command="find t -type l -newer t/a/f1 -o -name 'f*' -size -2 | sort | head -40; find /sys/class -maxdepth 1 | sort | grep -v -e vfio -e mdev -e iommu",
    )
    yield Case(
        name="ls, stat, du, cp -a, mv, rm",
        prepare=tree,
        command="cp -a t u; ls -R u; du -s --apparent-size u/a/b; stat -c '%n %F %s %h' u/a/*; mv u v; rm -r v; ls; stat nowhere; test -e nowhere",
    )
    yield Case(
        name="tar, gzip, xz",
        prepare=tree,
        command="tar --sort=name --mtime=@0 --owner=0 --group=0 -cf x.tar t; sha256sum <x.tar; tar -czf x.tgz t; tar -cJf x.txz t; mkdir o; tar -xf x.txz -C o; diff -r t o/t && echo equal",
    )
    yield Case(
        name="rsync",
        prepare=tree,
        command="rsync -a --itemize-changes t/ r/ | sort; echo more >t/a/f7; touch -d @100000000 t/a/f7; rsync -a --checksum --itemize-changes --delete t/ r/; diff -r t r && echo equal",
    )
    yield Case(
        name="grep -r, sed, awk, sort, diff",
        prepare=tree,
        command="grep -rc 1 t | sort; seq 1000 | awk '{s += $1} END {print s}'; sed -i s/1/one/ t/a/f10; cat t/a/f10; diff t/a/f10 t/a/f11; sort -rn <(seq 20)",
    )
    yield Case(
        name="zip, cpio, openssl, bc",
        prepare=tree,
        command="zip -qr x.zip t; unzip -l x.zip | tail -1; find t | sort | cpio -o --quiet -H newc | cpio -it --quiet | head; echo 2^200 | bc; openssl dgst -sha256 t/a/f9",
    )
    yield Case(
        name="sqlite3",
        command="sqlite3 x.db 'pragma journal_mode=wal; create table t(a, b); begin; insert into t select value, value*value from generate_series(1,5000); commit; select sum(b) from t; pragma integrity_check;' 2>&1; sqlite3 x.db 'create index i on t(a); select b from t where a = 77'",
    )
    yield Case(
        name="git",
        command="export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'; git init -q -b main r; cd r; git config user.name N; git config user.email e@x; seq 100 >f; git add f; git commit -qm one; git checkout -qb b; echo x >>f; git commit -qam two; git checkout -q main; git merge -q b; git log --format=%H; git gc -q; git fsck; cd ..; git clone -q r s; git -C s status -s; git -C s log --oneline | wc -l",
    )
    yield Case(
        name="fio (libaio-less engines: sync, psync, mmap, io_uring)",
        command="for e in sync psync mmap io_uring; do fio --name=j --filename=x --size=1m --bs=4k --rw=randwrite --verify=crc32c --ioengine=$e --minimal >o 2>&1; echo $e $? $(cut -d';' -f3,5 o | tail -1); done",
    )
    yield Case(
        name="busybox", command="busybox ls -l /dev/null; busybox seq 3; busybox sh -c 'echo $((1 << 40))'"
    )

    yield Case(
        name="shells: coprocesses, process substitution, small limits",
        command="mkdir -p vfio/sys/dev; cd vfio; for i in 1 2 3 4; do echo \"all: ; @echo $i\" >m$i; done; make -s -j4 -f m3; exec {a}>x {b}<x; echo hi >&$a; read -u $b l; echo $l; coproc C { cat; }; echo yo >&${C[1]}; read l <&${C[0]}; echo $l; diff <(seq 3) <(seq 4); zsh -fc 'coproc cat; print -p hi; read -p l; echo $l; cat =(echo tmp)'; (ulimit -n 20; ls / | wc -l); (ulimit -v 300000; perl -e 'print 1'); (ulimit -s 256; find /sys/class/net | wc -l); unshare -m sh -c 'mount -t tmpfs x /proc; mount -t tmpfs x /dev/shm; ls / | wc -l; cat /etc/passwd | wc -l'; setpriv --reuid 65534 --clear-groups cat /sys/class/net/lo/operstate",
    )


def _languages() -> Iterator[Case]:
    yield Case(
        name="python3",
        command='python3 -c \'import os, json, subprocess, multiprocessing as m, tempfile; print(sorted(os.listdir("/"))[:3]); print(subprocess.run(["echo", "x"], capture_output=True)); print(m.get_context("fork").Pool(2).map(abs, [-1, -2])); tempfile.TemporaryFile().write(b"x"); print(os.path.exists("/nowhere"))\'',
    )
    yield Case(
        name="python3: asyncio, start methods, sendfile, names", command=f"python3 {SOURCES}/lively.py"
    )
    yield Case(
        name="python3 -m venv, compileall",
        command="python3 -m venv --without-pip e && e/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)'; mkdir p; echo 'x = 1' >p/m.py; python3 -m compileall -q p; ls p/__pycache__",
    )
    yield Case(
        name="perl",
        command='perl -e \'use File::Find; my $n = 0; find(sub { $n++ }, "/usr/share/perl"); print "$n\\n"; open(my $f, "<", "/nowhere") or print "$!\\n"; print -s "/etc/passwd" > 0 ? "yes\\n" : "no\\n"; system("echo from perl"); print join(",", map { $_ * 2 } 1..5), "\\n"\'',
    )
    yield Case(
        name="ruby, lua, php",
        command='ruby -e \'puts Dir.children("/usr/share/ruby-licenses").size rescue puts 0; puts File.exist?("/nowhere"); puts `echo ruby`\'; lua5.4 -e \'print(#io.open("/etc/passwd"):read("a") > 0)\'; php -r \'echo count(glob("/usr/bin/php*")) > 0, file_exists("/nowhere") ? 1 : 0, PHP_EOL;\'',
    )
    yield Case(
        name="node",
        command='node -e \'const fs = require("fs"); fs.promises.readdir("/usr/share/nodejs").then(x => console.log(x.length)); fs.writeFileSync("x", "y"); fs.copyFileSync("x", "z"); console.log(fs.readFileSync("z", "utf8"), fs.existsSync("/nowhere")); require("child_process").exec("echo child", (e, o) => console.log(o.trim()))\'',
    )
    yield Case(
        name="node, UV_USE_IO_URING=1",
        command='UV_USE_IO_URING=1 node -e \'const fs = require("fs"); fs.readFile("/etc/passwd", (e, d) => console.log(e, d.length > 0)); fs.stat("/nowhere", e => console.log(e.code))\'',
    )
    yield Case(
        name="java",
        prepare='cp "$SOURCES"/Hello.java .',
        command="java -XX:TieredStopAtLevel=1 Hello.java",
        limit="",
    )
    yield Case(
        name="rust: rustc, std::fs", prepare=f"rustc -O {SOURCES}/files.rs -o files", command="./files"
    )
    yield Case(
        name="cargo",
        command="cargo --version; cargo new --vcs none p 2>&1 && cd p && cargo build --offline -q && ./target/debug/p",
    )


def _builds() -> Iterator[Case]:
    yield Case(name="gcc", command=f"gcc -O2 -Wall {SOURCES}/hello.c -o h && ./h; gcc -c nothing.c; echo $?")
    yield Case(
        name="g++, clang",
        command='printf \'#include <iostream>\\n#include <filesystem>\\nint main() { std::cout << std::filesystem::exists("/nowhere") << std::filesystem::is_directory("/usr") << std::endl; }\' >a.cc; g++ -std=c++17 a.cc -o a && ./a; clang++ -std=c++17 a.cc -o b && ./b',
    )
    yield Case(
        name="C++: std::filesystem in threads",
        prepare=f"g++ -std=c++17 -O1 {SOURCES}/walk.cc -o walk -pthread",
        command="./walk",
    )
    yield Case(
        name="make -j2",
        prepare="mkdir m; for i in $(seq 12); do echo \"int f$i(void) { return $i; }\" >m/f$i.c; done; printf 'O := $(patsubst %%.c,%%.o,$(wildcard *.c))\\nall: lib.a\\nlib.a: $(O)\\n\\tar rcD $@ $(sort $(O))\\n' >m/Makefile",
        command="make -s -j2 -C m && nm m/lib.a | grep -c ' T '; make -C m -q; echo $?",
    )
    yield Case(
        name="go build of a program",
        prepare='mkdir g; cp "$SOURCES"/hello.go g/',
        command="cd g && GOFLAGS=-mod=mod GOCACHE=$PWD/c GO111MODULE=off go build -o h hello.go; file h 2>/dev/null | grep -o 'ELF 64-bit'",
        limit="the go command is a Go program itself: see the refusals",
        kind=Kind.SAME,
    )


def _watchers() -> Iterator[Case]:
    client = f"gcc -O1 {SOURCES}/vfio_open.c -o v"
    told = ("container: 0", "device: ", "region 0: ")
    yield Case(
        name="strace -f, a VFIO program",
        kind=Kind.USES,
        prepare=client,
        command="strace -f -o log ./v {group} {sysfsdev}; grep -c execve log",
        says=told,
        options=E1000E,
    )
    yield Case(
        name="gdb -batch, a VFIO program",
        kind=Kind.USES,
        prepare=client,
        command="gdb -batch -ex run -ex 'info inferiors' --args ./v {group} {sysfsdev}",
        says=(*told, "exited normally"),
        options=E1000E,
    )
    yield Case(
        name="ltrace, valgrind (memcheck, helgrind)",
        kind=Kind.USES,
        prepare=client,
        command="valgrind -q --error-exitcode=9 ./v {group} {sysfsdev} && valgrind -q --tool=helgrind --error-exitcode=9 ./v {group} {sysfsdev}; ltrace -o log ./v {group} {sysfsdev} >/dev/null; echo ltrace $?",
        says=(*told, "ltrace 0"),
        options=E1000E,
    )
    yield Case(
        name="setsid, taskset, prlimit, stdbuf, script, bwrap, fakeroot",
        kind=Kind.USES,
        prepare=client,
        command="set -e; setsid -w ./v {group} {sysfsdev} >/dev/null; taskset 1 ./v {group} {sysfsdev} >/dev/null; prlimit --nofile=64 ./v {group} {sysfsdev} >/dev/null; stdbuf -oL ./v {group} {sysfsdev} >/dev/null; bwrap --dev-bind / / ./v {group} {sysfsdev} >/dev/null; fakeroot ./v {group} {sysfsdev} >/dev/null; unshare -m ./v {group} {sysfsdev}",
        says=told,
        options=E1000E,
    )
    yield Case(
        name="env -i, the library kept",
        kind=Kind.USES,
        prepare=client,
        command='env -i LD_PRELOAD="$LD_PRELOAD" ./v {group} {sysfsdev}',
        says=told,
        options=E1000E,
    )


def _sanitizers() -> Iterator[Case]:
    told = ("container: 0", "region 0: ")
    for name, flags in (
        ("gcc ASan", "gcc -fsanitize=address"),
        ("gcc ASan, static runtime", "gcc -fsanitize=address -static-libasan"),
        ("gcc TSan", "gcc -fsanitize=thread"),
        ("gcc UBSan", "gcc -fsanitize=undefined"),
        ("clang ASan", "clang -fsanitize=address"),
        ("clang TSan", "clang -fsanitize=thread"),
        ("clang MSan", "clang -fsanitize=memory"),
    ):
        yield Case(
            name=f"{name}, a VFIO program",
            kind=Kind.USES,
            prepare=f"{flags} -g {SOURCES}/vfio_open.c -o v",
            command="./v {group} {sysfsdev}",
            says=told,
            options=E1000E,
        )


def _administration() -> Iterator[Case]:
    named = ("--device=e1000e",)
    yield Case(
        name="lspci",
        kind=Kind.USES,
        options=named,
        command="lspci -D -nnvvk -s {bdf}; lspci -t >/dev/null; lspci -s {bdf} -xxxx | wc -l; lspci -mm -s {bdf}",
        says=(
            r"8086:10d3",
            r"Kernel driver in use: vfio-pci",
            r"Memory at [0-9a-f]+ .*size=128K",
            r"I/O ports at [0-9a-f]{4} ",
        ),
    )
    yield Case(
        name="setpci",
        kind=Kind.USES,
        options=named,
        command="setpci -s {bdf} COMMAND; setpci -s {bdf} COMMAND=0006; setpci -s {bdf} COMMAND; setpci -s {bdf} COMMAND=0000; setpci -s {bdf} COMMAND",
        says=(r"(?m)^0006$", r"(?m)^0000$"),
    )
    yield Case(
        name="udevadm (libudev)",
        kind=Kind.USES,
        options=named,
        command="udevadm info {sysfsdev}; udevadm info -q property -p {sysfsdev}; udevadm info -a {sysfsdev} | grep -c ATTR; stat -f -c %T {sysfsdev}/uevent",
        says=(r"P: /devices/", r"PCI_ID=8086:10D3", r"(?m)^sysfs$"),
    )
    yield Case(
        name="driverctl",
        kind=Kind.USES,
        options=named,
        command="driverctl -v list-devices | grep {bdf}; driverctl list-overrides; driverctl --nosave set-override {bdf} vfio-pci; echo set $?; readlink {sysfsdev}/driver",
        says=(r"vfio-pci", r"set 0", r"drivers/vfio-pci"),
    )
    yield Case(
        name="dpdk-devbind.py",
        kind=Kind.USES,
        options=named,
        command="dpdk-devbind.py --status-dev net; dpdk-devbind.py -b vfio-pci {bdf}; echo bound $?",
        says=(r"drv=vfio-pci", r"bound 0"),
    )
    yield Case(
        name="mdevctl, under run",
        kind=Kind.USES,
        command="mdevctl types; mdevctl list; mdevctl list --dumpjson; echo rc $?",
        says=(r"Available instances: \d", r"[0-9a-f-]{36}", r"rc 0"),
    )
    yield Case(
        name="mdevctl, MDEVCTL_ENV_ROOT",
        kind=Kind.USES,
        command='MDEVCTL_ENV_ROOT="$VFIOEMU_ROOT" mdevctl types; MDEVCTL_ENV_ROOT="$VFIOEMU_ROOT" mdevctl list',
        says=(r"Available instances: \d", r"[0-9a-f-]{36}"),
    )
    yield Case(
        name="chmod, chown of the group's node; bind scripts",
        kind=Kind.USES,
        options=named,
        command="set -e; chmod 0660 /dev/vfio/{group}; stat -c %a /dev/vfio/{group}; chown 0:0 /dev/vfio/{group}; echo vfio-pci >{sysfsdev}/driver_override; cat {sysfsdev}/driver_override; echo {bdf} >/sys/bus/pci/drivers_probe; echo {bdf} >/sys/bus/pci/drivers/vfio-pci/unbind; echo {bdf} >/sys/bus/pci/drivers/vfio-pci/bind; echo all",
        says=(r"(?m)^660$", r"(?m)^vfio-pci$", r"(?m)^all$"),
    )
    libvirt = """
	export LIBVIRT_DEFAULT_URI=qemu:///system
	mkdir -p /run/dbus /run/udev /var/lib/dbus /var/log/libvirt; dbus-uuidgen >/var/lib/dbus/machine-id
	echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>/etc/passwd; echo 'libvirt-qemu:x:64055:' >>/etc/group
	printf '%s\n' 'user = "0"' 'group = "0"' 'security_driver = "none"' 'cgroup_controllers = []' 'namespaces = []' 'stdio_handler = "file"' 'remember_owner = 0' >/etc/libvirt/qemu.conf
	prlimit --memlock=4294967296 true 2>/dev/null || { gcc -shared -fPIC "$SOURCES"/memlock.c -o memlock.so && export LD_PRELOAD=$LD_PRELOAD:$PWD/memlock.so; }
	libvirtd -d -p /run/libvirtd.pid || exit 1
	for i in $(seq 100); do virsh -q version >/dev/null 2>&1 && break; read -t 0.2 <> <(:) || :; done
"""
    bdf = "name=$(basename {sysfsdev}); node=pci_$(echo $name | tr :. __)\n"
    yield Case(
        name="libvirt: virsh nodedev-list, nodedev-dumpxml",
        kind=Kind.USES,
        options=(*named, "--device=mtty"),
        command=libvirt
        + bdf
        + "virsh nodedev-list | grep -e $node -e mdev; virsh nodedev-dumpxml $node; virsh nodedev-detach $node; kill $(cat /run/libvirtd.pid)",
        says=(r"<product id='0x10d3'>", r"<iommuGroup number=", r"mdev_", r"detached"),
    )
    yield Case(
        name="libvirt: a domain with <hostdev>",
        kind=Kind.USES,
        options=("--device=e1000e,mmap=false",),
        command=libvirt
        + bdf
        + """
	sed "s/@BDF@/$(echo $name | sed 's/\\(.*\\):\\(.*\\):\\(.*\\)\\.\\(.*\\)/domain="0x\\1" bus="0x\\2" slot="0x\\3" function="0x\\4"/')/" "$SOURCES"/domain.xml >d.xml
	virsh create d.xml; virsh domstate vfioemu; virsh dumpxml vfioemu | grep -c hostdev
	virsh detach-device vfioemu <(sed -n '/<hostdev/,/<.hostdev/p' d.xml); virsh destroy vfioemu; kill $(cat /run/libvirtd.pid)""",
        says=(r"Domain '?vfioemu'? created", r"running", r"destroyed"),
    )


def _clients() -> Iterator[Case]:
    engine = ("--device=dma-engine",)
    yield Case(
        name="C: open a device, its regions and interrupts",
        kind=Kind.USES,
        options=E1000E,
        prepare=f"gcc -O2 -Wall -Werror {SOURCES}/vfio_open.c -o v",
        command="./v {group} {sysfsdev}",
        says=(r"region 0: size 0x20000", r"irq 0: "),
    )
    yield Case(
        name="C: names with little stack, also with LD_BIND_NOW and fakeroot",
        kind=Kind.USES,
        options=E1000E,
        prepare='gcc -O1 -pthread "$SOURCES"/../../run/small.c -o small',
        command="./small /dev/vfio/{group} {sysfsdev} && LD_BIND_NOW=1 ./small /dev/vfio/{group} {sysfsdev} && fakeroot ./small /dev/vfio/{group} {sysfsdev} | wc -l",
        says=(r"ok\nok\n1",),
    )
    yield Case(
        name="wildcards, find and /proc/self/fd",
        kind=Kind.USES,
        options=E1000E,
        command="echo /d*/vf*/[0-9]*; ls /dev | grep -c vfio; find /dev -maxdepth 1 -name 'vf*'; exec 3</sys/bus; cat /proc/self/fd/3/pci/devices/{bdf}/vendor; ls /dev/fd/3/cpu | head -1; python3 -c 'import glob; print(glob.glob(\"/d*/vfio/vfi*\"))'",
        says=(r"(?m)^/dev/vfio/\d+$", r"(?m)^1$", r"(?m)^/dev/vfio$", r"0x8086", r"\['/dev/vfio/vfio'\]"),
    )
    yield Case(
        name="C: map BARs, DMA maps, correctness of map and unmap",
        kind=Kind.USES,
        options=engine,
        prepare=f"gcc -O2 -Wall -Werror {SOURCES}/vfio_map.c -o v",
        command="./v {group} {sysfsdev}",
        says=(r"bar 0 mapped", r"overlap: EEXIST", r"unmapped all", r"PASSED"),
    )
    yield Case(
        name="C: an interrupt by eventfd, and a reset",
        kind=Kind.USES,
        options=E1000E,
        prepare=f"gcc -O2 -Wall -Werror {SOURCES}/vfio_irq.c -o v",
        command="./v {group} {sysfsdev}",
        says=(r"interrupts: 1", r"reset: 0"),
    )
    yield Case(
        name="python: fcntl, mmap, struct",
        kind=Kind.USES,
        options=engine,
        command=f"python3 {SOURCES}/client.py {{group}} {{sysfsdev}}",
        says=(r"mapped: 32", r"EEXIST"),
    )
    yield Case(
        name="perl: ioctl",
        kind=Kind.USES,
        options=E1000E,
        command=f"perl {SOURCES}/client.pl {{group}}",
        says=(r"api 0", r"viable 1"),
    )
    yield Case(
        name="rust: nix-less ioctl by libc's symbols",
        kind=Kind.USES,
        options=E1000E,
        prepare=f"rustc -O {SOURCES}/client.rs -o c",
        command="./c {group} {sysfsdev}",
        says=(r"api 0", r"device 1", r"vendor 8086"),
    )
    yield Case(
        name="node, java, find: files of a device",
        kind=Kind.USES,
        options=E1000E,
        prepare='cp "$SOURCES"/Device.java .',
        command='node -e \'console.log(require("fs").readFileSync(process.argv[1] + "/vendor", "utf8").trim(), require("fs").readdirSync("/dev/vfio"))\' {sysfsdev}; java Device.java {sysfsdev}; find {sysfsdev}/ -name vendor',
        says=(r"0x8086 \[", r"java 0x8086", r"/vendor"),
    )
    yield Case(
        name="QEMU 7.2: realize, monitor",
        kind=Kind.USES,
        options=("--device=mtty", "--device=dma-engine"),
        command="printf 'info pci\\nquit\\n' | qemu-system-x86_64 -nodefaults -display none -m 64 -S -monitor stdio -device vfio-pci,sysfsdev={sysfsdev} -device vfio-pci,sysfsdev={sysfsdev1}",
        says=(r"4348:3253",),
    )
    for memory in ("ask", "process_vm"):
        for ram, options in (
            ("private", "-m 64"),
            ("memfd", "-m 64 -object memory-backend-memfd,id=r,size=64M -machine memory-backend=r"),
        ):
            yield Case(
                name=f"QEMU 7.2 runs its firmware, {ram} RAM, {memory}, in a PID namespace, ulimit -l 64",
                kind=Kind.USES,
                options=(
                    f"--memory={memory}",
                    "--device=dma-engine,type=2",
                    "--device=mtty",
                    "--trace=trace",
                ),
                command=f"ulimit -l 64; (sleep 2; printf 'info pci\\nquit\\n') | unshare -pf qemu-system-x86_64 -nodefaults "
                f"-display none {options} -monitor stdio -device vfio-pci,sysfsdev={{sysfsdev}} "
                "-device vfio-pci,sysfsdev={sysfsdev1}; "
                "grep -c 'VFIO_IOMMU_MAP_DMA.* = 0$' trace | sed 's/^/mapped: /'; ! grep 'MAP_DMA.*= -1' trace",
                says=(r"1afe:0d01", r"4348:3253", r"mapped: [1-9]\d"),
            )
    yield Case(
        name="DPDK: testpmd probes, maps and resets",
        kind=Kind.USES,
        options=E1000E,
        status=1,
        command="dpdk-testpmd -l 0 --no-huge -m 256 --no-shconf --iova-mode=va -a {bdf} -- --total-num-mbufs=2048 </dev/null",
        says=(
            r"VFIO support initialized",
            r"Using IOMMU type 1",
            r"Probe PCI driver: net_e1000_em \(8086:10d3\)",
        ),
        limit="the driver then reads a PHY that the model has not, through mapped registers",
    )
    yield Case(
        name="qemu-img, nvme://",
        kind=Kind.USES,
        options=("--device=nvme",),
        status=1,
        command="qemu-img info --image-opts driver=nvme,device={bdf},namespace=1",
        says=(r"Timeout while waiting for device to start",),
        limit="stores to a mapped BAR reach nobody",
    )


def _refused() -> Iterator[Case]:
    yield Case(
        name="static C",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"gcc -static {SOURCES}/hello.c -o h",
        command="./h",
        says=(r"statically linked",),
    )
    yield Case(
        name="static-pie C",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"gcc -static-pie {SOURCES}/hello.c -o h",
        command="./h",
        says=(r"statically linked",),
    )
    yield Case(
        name="musl",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"musl-gcc {SOURCES}/hello.c -o h",
        command="./h",
        says=(r"musl",),
    )
    go = 'cp "$SOURCES"/{hello,cgo}.go .; export GOCACHE=$PWD/c GO111MODULE=off'
    yield Case(
        name="Go, static",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"{go}; CGO_ENABLED=0 go build -o h hello.go",
        command="./h",
        says=(r"Go",),
    )
    yield Case(
        name="Go, cgo (dynamically linked)",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"{go}; go build -o h cgo.go",
        command="./h",
        says=(r"Go",),
    )
    yield Case(
        name="Go, -buildmode=pie",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"{go}; go build -buildmode=pie -o h hello.go",
        command="./h",
        says=(r"Go",),
    )
    yield Case(
        name="a script whose interpreter is static",
        kind=Kind.REFUSED,
        status=126,
        prepare=f"gcc -static {SOURCES}/hello.c -o b; printf '#!%s/b\\n' \"$PWD\" >s; chmod +x s",
        command="./s",
        says=(r"statically linked",),
    )
    yield Case(
        name="AArch64",
        kind=Kind.REFUSED,
        status=126,
        prepare="printf '\\177ELF\\2\\1\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\267\\0\\1\\0\\0\\0' >h; head -c 4000 /dev/zero >>h; chmod +x h",
        command="./h",
        says=(r"AArch64",),
    )
