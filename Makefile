# SPDX-License-Identifier: MIT
# What to type. All of it happens in .venv and build/; nothing else is touched.

PYTHON ?= python3
JOBS ?= 2
MINUTES ?= 5

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install
# What the tests have passed with; if that is not to be had, what pyproject.toml allows.
install = $(PIP) --constraint packaging/constraints.txt $(1) || $(PIP) $(1)
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS)
EXTENSION := vfioemu/_kernel.abi3.so
PRELOAD := vfioemu/libvfioemu-preload.so
C_SOURCES := $(wildcard csrc/*.c csrc/*.h)
PRELOAD_SOURCES := $(wildcard csrc/preload/*) protocol/vfioemu_wire.h
FUZZ_TARGETS := $(patsubst csrc/%.c,csrc/%,$(filter-out csrc/fuzz_main.c,$(wildcard csrc/fuzz_*.c)))
C_FORMATTED := $(C_SOURCES) $(wildcard csrc/preload/*.[ch] protocol/*.h bench/*.[ch] tests/*.[ch] tests/*/*.[ch] tests/*/*/*.[ch] tests/*/*/*/*.[ch])

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Not the user's own.
export PIP_CACHE_DIR ?= $(CURDIR)/build/pip

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build coverage demo test test-full test-c test-interop test-programs guest lint format bench fuzz clean

help:
	@echo 'make build      .venv with everything in it, and .venv/bin/vfioemu'
	@echo 'make demo       two daemons, and a guest that moves between them while a device writes into its memory'
	@echo 'make test       the tests, in some minutes'
	@echo 'make coverage   how much of the rooms below the daemon their tests reach, and whether that is enough'
	@echo 'make test-full  all of the tests, and the C tests under the sanitizers'
	@echo 'make test-interop  unmodified QEMUs (fetched, if need be) boot and migrate Linux; writes docs/interop.md'
	@echo 'make test-programs  programs of Debian (fetched, some 2 GB) and clients in several languages; writes docs/programs.md'
	@echo 'make guest      Debian'\''s kernel and busybox as a guest: build/guest/vmlinuz and initrd'
	@echo 'make lint       ruff, mypy, import-linter, clang-format, C warnings as errors'
	@echo 'make format     let ruff and clang-format have their way, and write vfioemu/_kernel.pyi'
	@echo 'make bench      how fast it is, as ratios against what this machine can do'
	@echo 'make fuzz       arbitrary bytes to every ioctl and to the C kernel, for MINUTES=$(MINUTES)'
	@echo 'make clean      remove what was built, but for .venv'

build: $(VENV)/.installed $(EXTENSION) $(PRELOAD)

# What Debian has in packages of its own is asked for by its name.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'vfioemu needs Python 3.11 or later (Debian: apt install python3)' >&2; exit 77; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'python3 -m venv does not work here (Debian: apt install python3-venv)' >&2; exit 77; }
	@$(PYTHON) -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || \
		{ echo 'There is no Python.h (Debian: apt install python3-dev)' >&2; exit 77; }
	@command -v cc >/dev/null || \
		{ echo 'There is no C compiler (Debian: apt install gcc libc6-dev)' >&2; exit 77; }
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# All packages; of vfioemu itself the metadata, the command and a .pth file: Python files are used where they lie.
$(VENV)/.installed: pyproject.toml packaging/constraints.txt packaging/develop.pth.in | $(BIN)/python
	@echo 'fetching Python packages into $(VENV): some 40 s, and 80 MB'
	@$(PIP) 'pip>=25.1'
	@echo '... what builds vfioemu: meson, ninja, cffi'
	@$(call install,--group build)
	@echo '... what it needs, and what tests and lints it'
	@$(call install,--no-build-isolation --config-settings=setup-args=-Ddevelop=true --group dev .)
	@touch $@

# Moved into place, so that a running program keeps the file that it has mapped.
$(EXTENSION) $(PRELOAD) &: $(C_SOURCES) $(PRELOAD_SOURCES) csrc/kernel_build.py csrc/meson.build meson.build meson.options | $(VENV)/.installed
	@mkdir -p build
	@echo 'building $(EXTENSION) and $(PRELOAD)'
	@test -f build/dev/build.ninja || meson setup build/dev >build/dev.log || { cat build/dev.log; exit 1; }
	@ninja --quiet -C build/dev
	@cp build/dev/csrc/_kernel.abi3.so $(EXTENSION).new && mv $(EXTENSION).new $(EXTENSION)
	@cp build/dev/csrc/preload/libvfioemu-preload.so $(PRELOAD).new && mv $(PRELOAD).new $(PRELOAD)

demo: build
	$(BIN)/vfioemu demo

# TESTS='tests/daemon -k stats' are more arguments for pytest.
test: build
	meson test -C build/dev --print-errorlogs
	$(PYTEST) -m 'not slow and not full and not interop and not programs' $(TESTS)

# Branches of the rooms whose tests run in their own process (pyproject.toml lists both, with the floor). What is above them, daemon,
# commands and migration, is tested as processes, which end in too many ways to be measured.
coverage: build
	@mkdir -p build/coverage
	$(PYTEST) -m 'not slow and not full and not interop and not programs' --cov --cov-report=term --cov-report=html \
		$(addprefix tests/,client core devices io native syscalls trace uapi wire) $(TESTS)

test-full: build test-c
	HYPOTHESIS_PROFILE=full $(PYTEST) -m 'not interop and not programs' $(TESTS)

# Under both sanitizers; then no mark may be lost in ten millions (csrc/test_loss.c), as fast as they come.
test-c: build
	@test -f build/asan/build.ninja || meson setup build/asan -Dextension=false -Dbuildtype=debugoptimized \
		-Db_sanitize=address,undefined -Db_lundef=false >build/asan.log || { cat build/asan.log; exit 1; }
	@test -f build/tsan/build.ninja || meson setup build/tsan -Dextension=false -Dbuildtype=debugoptimized \
		-Db_sanitize=thread -Db_lundef=false -Dc_args=-Wno-tsan >build/tsan.log || { cat build/tsan.log; exit 1; }
	meson test -C build/asan --print-errorlogs
	meson test -C build/tsan --print-errorlogs
	meson test -C build/dev --print-errorlogs
	build/dev/csrc/test_loss 10000000

# QEMUs of three generations and a guest, below ~/.cache/vfioemu; one test after the other.
test-interop: build
	tests/system/interop/fetch
	$(BIN)/python -m pytest -q -n0 -m interop -o faulthandler_timeout=1800 \
		tests/system/interop --interop-report docs/interop.md $(INTEROP)

# What nobody here wrote, under `vfioemu run`, below ~/.cache/vfioemu. PROGRAMS='--programs-before FILE' adds a column: the
# results of an earlier run, which --programs-results FILE has kept.
test-programs: build
	tests/system/programs/fetch
	$(BIN)/python -m pytest -q -n0 -m programs -o faulthandler_timeout=600 \
		tests/system/programs --programs-report docs/programs.md $(PROGRAMS)

# Below ~/.cache/vfioemu as well, with links where people find them.
guest: build
	tests/system/interop/fetch guest
	$(BIN)/python -m tests.system.interop.link_guest build/guest

lint: build
	ruff check
	ruff format --check
	mypy vfioemu bench tests
	lint-imports
	clang-format --dry-run -Werror $(C_FORMATTED)
	@test -f build/lint/build.ninja || meson setup build/lint -Dextension=false -Dwerror=true \
		-Dbuildtype=debugoptimized >build/lint.log || { cat build/lint.log; exit 1; }
	ninja --quiet -C build/lint all $$(ninja -C build/lint -t targets all | sed -n 's/^\(csrc\/\(test\|fuzz\)_[a-z0-9_]*\): .*/\1/p')

format: build
	$(BIN)/python csrc/kernel_stub.py vfioemu/_kernel.pyi
	ruff check --fix
	ruff format
	clang-format -i $(C_FORMATTED)

bench: build
	$(BIN)/python -m bench $(BENCH)

# atheris for the core, libFuzzer for the C kernel where there is clang (Debian: apt install clang libclang-rt-14-dev).
# What fails is left in build/fuzz/findings; FUZZ='--keep tests/fuzzing/regressions' hands it to the tests.
fuzz: build $(VENV)/.fuzz
	@test -f build/fuzz/kernel/build.ninja || CC=$$(command -v clang || echo cc) meson setup build/fuzz/kernel \
		-Dfuzz=true -Dextension=false -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false \
		>build/fuzz.log || { cat build/fuzz.log; exit 1; }
	@ninja --quiet -C build/fuzz/kernel $(FUZZ_TARGETS)
	$(BIN)/python -m tests.fuzzing --minutes $(MINUTES) $(FUZZ)

# Where there is no atheris for this Python, that engine is left out.
$(VENV)/.fuzz: $(VENV)/.installed
	@echo 'fetching atheris into $(VENV)'
	@$(call install,--group fuzz) || echo 'atheris cannot be installed here: the engine "guided" is left out' >&2
	@touch $@

clean:
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f $(EXTENSION) $(PRELOAD) $(VENV)/.installed $(VENV)/.fuzz
	find vfioemu tests -name __pycache__ -prune -exec rm -rf {} +
