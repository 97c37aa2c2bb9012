# SPDX-License-Identifier: MIT
# The C kernel (csrc/vfe_*.c) through cffi; vfioemu/native/ wraps it, nothing else should call it.

from typing import Any

from cffi import FFI

ffi: FFI

lib: Any  # the functions declared in csrc/kernel_build.py, which the C compiler holds against the headers
