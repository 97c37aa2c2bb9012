# SPDX-License-Identifier: MIT
"""Write vfioemu/_kernel.pyi: the types of `vfioemu._kernel`, from the declarations in kernel_build.py.

    python csrc/kernel_stub.py vfioemu/_kernel.pyi

cffi checks arguments only when a call is made, and a NULL not even then. So mypy is told: a class for the pointers to each
struct, for `uint64_t *`, and for memory that may and that may not be written; `Null` for what a `_Nullable` may be
instead. At run time none of these classes exists: import them under TYPE_CHECKING.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from keyword import iskeyword
from pathlib import Path

from kernel_build import DECLARATIONS, NULLABLE
from pycparser import c_ast, c_parser

WIDTH = 110

INTEGERS = {"int", "unsigned int", "size_t", "uint32_t", "uint64_t"}
TYPEDEFS = "typedef _Bool bool; typedef unsigned long size_t; typedef unsigned uint32_t; typedef unsigned long uint64_t;"

HEAD = """# SPDX-License-Identifier: MIT
# The C kernel (csrc/vfe_*.c) through cffi; vfioemu/native/ wraps it, nothing else should call it.
# Made by csrc/kernel_stub.py from the declarations in csrc/kernel_build.py, which the C compiler holds against the headers.

from collections.abc import Callable, Sequence
from typing import Final, Literal, Self, TypeVar, overload

from _typeshed import ReadableBuffer, WriteableBuffer

# NULL, where a pointer may be that.
class Null:
    def __bool__(self) -> Literal[False]: ...

# A pointer that is not NULL.
class Pointer:
    def __bool__(self) -> Literal[True]: ...

# `const void *` and `const char *`: memory that is read.
class ConstVoidPtr(Pointer): ...

# `void *` and `char *`: memory that may be written.
class VoidPtr(ConstVoidPtr): ...

# `char[]` over a Python object, and over one that may be written.
class ConstBytesPtr(ConstVoidPtr):
    def __len__(self) -> int: ...

class BytesPtr(ConstBytesPtr, VoidPtr): ...

# `uint64_t *`, or an array of them.
class U64Ptr(Pointer):
    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...

# A number that has a C type.
class Integer:
    def __int__(self) -> int: ...
"""

FFI_HEAD = """
_Pointer = TypeVar("_Pointer", bound=Pointer)

class _Ffi:
    NULL: Final[Null]
    @overload
    def cast(self, cdecl: Literal["void *", "char *"], source: int) -> VoidPtr: ...
    @overload
    def cast(self, cdecl: Literal["uintptr_t"], source: Pointer | Null) -> Integer: ...
    def gc(self, cdata: _Pointer, destructor: Callable[[_Pointer], object]) -> _Pointer: ...
"""

FROM_BUFFER = """\
    @overload
    def from_buffer(
        self, cdecl: ReadableBuffer, require_writable: Literal[False] = False
    ) -> ConstBytesPtr: ...
    @overload
    def from_buffer(self, cdecl: WriteableBuffer, require_writable: Literal[True]) -> BytesPtr: ...
"""


def class_name(struct: str) -> str:
    """`LogRangePtr` for `vfe_log_range`."""
    return "".join(part.capitalize() for part in struct.split("_")[1:]) + "Ptr"


def python_type(node: c_ast.Node) -> str:
    """Return the Python type of a declaration."""
    if isinstance(node, c_ast.ArrayDecl):
        return pointer_type(node.type, nullable=False)
    if isinstance(node, c_ast.PtrDecl):
        return pointer_type(node.type, nullable="restrict" in node.quals)
    kind = node.type
    if isinstance(kind, c_ast.Enum):
        return "int"
    name = " ".join(kind.names)
    if name in INTEGERS:
        return "int"
    return {"bool": "bool", "void": "None"}[name]


def pointer_type(target: c_ast.TypeDecl, *, nullable: bool) -> str:
    """Return the class of a pointer to `target`."""
    if isinstance(target.type, c_ast.Struct):
        name = class_name(target.type.name)
    elif target.type.names == ["uint64_t"]:
        name = "U64Ptr"
    elif target.type.names in (["void"], ["char"]):
        name = "ConstVoidPtr" if "const" in target.quals else "VoidPtr"
    else:
        raise ValueError(f"{target.declname}: no class for a pointer to {target.type.names}")
    return f"{name} | Null" if nullable else name


def signature(name: str, parameters: Iterable[str], result: str) -> str:
    """Format a method of a stub, in lines as short as the formatter makes them."""
    listed = list(parameters)
    line = f"    def {name}({', '.join(listed)}) -> {result}: ...\n"
    if len(line) <= WIDTH + 1:
        return line
    line = f"        {', '.join(listed)}\n"
    if len(line) > WIDTH + 1:
        line = "".join(f"        {parameter},\n" for parameter in listed)
    return f"    def {name}(\n{line}    ) -> {result}: ...\n"


def struct_class(struct: c_ast.Struct) -> str:
    """Format the class of pointers to a struct; fields are attributes of the pointer, as in C."""
    head = f"\n# `struct {struct.name} *`, or an array of them.\nclass {class_name(struct.name)}(Pointer):"
    fields = "".join(f"    {field.name}: {python_type(field.type)}\n" for field in struct.decls or ())
    if not fields:
        return f"{head} ...\n"
    return f"{head}\n{fields}    def __getitem__(self, index: int) -> Self: ...\n"


def new_overloads(structs: Iterable[c_ast.Struct], incomplete: set[str]) -> Iterator[str]:
    """Yield overloads of `ffi.new` and `ffi.from_buffer` for types whose size is known here."""
    kinds = [("uint64_t", "U64Ptr", "int", "Sequence[int]")]
    for struct in structs:
        if struct.name not in incomplete:
            fields = f"tuple[{', '.join(python_type(field.type) for field in struct.decls)}]"
            kinds.append((f"struct {struct.name}", class_name(struct.name), fields, f"Sequence[{fields}]"))
    for name, result, one, many in kinds:
        yield "    @overload\n"
        yield signature("new", ["self", f'cdecl: Literal["{name} *"]', f"init: {one} = ..."], result)
        yield "    @overload\n"
        yield signature("new", ["self", f'cdecl: Literal["{name}[]"]', f"init: int | {many}"], result)
    yield FROM_BUFFER
    for name, result, _, _ in kinds:
        yield "    @overload\n"
        yield signature(
            "from_buffer",
            ["self", f'cdecl: Literal["{name}[]"]', "python_buffer: ReadableBuffer"],
            result,
        )


def function(declaration: c_ast.Decl) -> str:
    """Format a C function as a method of `lib`."""
    parameters = [
        f"{parameter.name}{'_' * iskeyword(parameter.name)}: {python_type(parameter.type)}"
        for parameter in declaration.type.args.params
        if parameter.name is not None  # (void)
    ]
    return signature(
        declaration.name,
        ["self", *parameters, "/"] if parameters else ["self"],
        python_type(declaration.type.type),
    )


def stub(declarations: str) -> str:
    """Format the stub.

    Args:
        declarations: as for cffi, with `_Nullable`.
    """
    constants = re.findall(r"^ *#define (\w+) \.\.\.$", declarations, re.MULTILINE)
    incomplete = set(re.findall(r"struct (\w+) \{[^}]*\.\.\.; \}", declarations))
    # pycparser knows standard C: `restrict` stands where `_Nullable` does.
    text = re.sub(r"^ *#define .*$", "", declarations, flags=re.MULTILINE).replace("...;", "")
    parsed = c_parser.CParser().parse(TYPEDEFS + text.replace(NULLABLE, "restrict "))
    found = [node for node in parsed.ext if isinstance(node, c_ast.Decl)]
    structs = [node.type for node in found if isinstance(node.type, c_ast.Struct)]
    for node in found:
        if isinstance(node.type, c_ast.Enum):
            constants += [value.name for value in node.type.values.enumerators]
    return "".join(
        [
            HEAD,
            *map(struct_class, structs),
            FFI_HEAD,
            *new_overloads(structs, incomplete),
            "\nclass _Lib:\n",
            *(f"    {name}: Final[int]\n" for name in constants),
            *(function(node) for node in found if isinstance(node.type, c_ast.FuncDecl)),
            "\nffi: Final[_Ffi]\nlib: Final[_Lib]\n",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(stub(DECLARATIONS), encoding="utf-8")
