"""What a checkpoint's pickle says about its tensors, found by reading it as data. Nothing is ever executed.

A pickle is a program for a stack machine that builds objects and calls functions. We follow its opcodes on a stack of
our own, on which a function is no more than its name and a call to one of a few functions of PyTorch is no more than
a note of its arguments. No name is looked up, no module imported, no object of the file's choosing made, so a hostile
pickle can at most make us give up. Every opcode makes at most one small value, and copies are never made (what the
pickle uses twice is one value here, too), so the bound on opcodes bounds time and memory: at most a second and 60 MiB.

What comes out is each tensor's name, that is the path of keys that leads to it, and which part of which storage it
is. A pickle that we cannot follow costs the names, not the plan.

Source: CPython ``Lib/pickletools.py``; PyTorch ``torch/_utils.py`` and ``torch/_weights_only_unpickler.py``.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tigrismount.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_PATH_CHARACTERS = 500
"""Longest name that we give a tensor: real ones are below 200."""
_MAX_OPCODES = 400_000
"""Opcodes that are followed: 10,000 tensors at some 35 each; checkpoints have hundreds in a file."""
_MAX_DEPTH = 200
"""Containers within containers; a whole pickled module has some 20."""
_MAX_TENSORS = 100_000
"""Mentions of tensors: one tensor can be mentioned in two bytes, so what the names take is bounded by this."""

_DTYPES = {
    "Double": ("F64", 8),
    "Float": ("F32", 4),
    "Half": ("F16", 2),
    "BFloat16": ("BF16", 2),
    "Long": ("I64", 8),
    "Int": ("I32", 4),
    "Short": ("I16", 2),
    "Char": ("I8", 1),
    "Byte": ("U8", 1),
    "Bool": ("BOOL", 1),
    "ComplexFloat": ("C64", 8),
    "ComplexDouble": ("C128", 16),
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "uint16": ("U16", 2),
    "uint32": ("U32", 4),
    "uint64": ("U64", 8),
    "bool": ("BOOL", 1),
    "complex64": ("C64", 8),
    "complex128": ("C128", 16),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
}
"""Our word for an element type and its bytes, by the name of the storage class or of the type in PyTorch."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A tensor as the pickle describes it; nothing in here has been compared with the file."""

    name: str
    """The keys that lead to it, joined by dots."""
    storage: str
    """Key of its storage."""
    dtype: str
    """Element type."""
    item_bytes: int
    """Bytes per element."""
    offset: int
    """Elements of the storage before it."""
    shape: tuple[int, ...]
    """Elements along each dimension."""
    strides: tuple[int, ...]
    """Elements from one to the next along each dimension."""


@dataclass(eq=False, slots=True)
class _Global:
    """A name that the pickle mentions."""

    name: str


@dataclass(eq=False, slots=True)
class _Storage:
    dtype: _Global
    key: str


@dataclass(eq=False, slots=True)
class _Tensor:
    storage: _Storage
    dtype: _Global
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False, slots=True)
class _Node:
    """A container, or an object that we know nothing about: what it holds, by key."""

    items: list[tuple[Any, Any]] = field(default_factory=list)


_MARK, _END = object(), object()


def trace(data: bytes) -> list[Traced]:
    """Return the tensors of a pickle, in the order in which it reaches them.

    Args:
        data: The whole pickle.

    Raises:
        FormatError: It is no pickle, or does something that we cannot follow.
    """
    try:
        return _collect(_Machine().run(data))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, DeprecationWarning) as exc:
        # The last is what odd escapes in old string opcodes come to where warnings are errors.
        raise FormatError(f"pickle cannot be followed: {type(exc).__name__}") from exc


class _Machine:
    """A pickle's stack and memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Follow all opcodes; return what is on top of the stack at the end."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == _MAX_OPCODES:
                raise ValueError("too long")
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name not in _IGNORED:
                _STEPS[opcode.name](self, argument)
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        index = len(self._stack) - 1
        while self._stack[index] is not _MARK:
            index -= 1
            if index < 0:
                raise ValueError("no mark")
        values = self._stack[index + 1 :]
        del self._stack[index:]
        return values

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._marked()

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def tuple_marked(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def tuple_1(self, _: Any) -> None:
        self._tuple(1)

    def tuple_2(self, _: Any) -> None:
        self._tuple(2)

    def tuple_3(self, _: Any) -> None:
        self._tuple(3)

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) != count:
            raise ValueError("stack is empty")
        del self._stack[-count:]
        self._stack.append(values)

    def container(self, _: Any) -> None:
        self._stack.append(_Node(list(enumerate(self._marked()))))

    def mapping(self, _: Any) -> None:
        values = self._marked()
        self._stack.append(_Node(list(zip(values[::2], values[1::2], strict=True))))

    def append(self, _: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        items = self._stack[-1].items
        items.extend(enumerate(values, len(items)))

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._stack[-1].items.append((key, value))

    def set_items(self, _: Any) -> None:
        values = self._marked()
        self._stack[-1].items.extend(zip(values[::2], values[1::2], strict=True))

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def global_(self, argument: str) -> None:
        self._stack.append(_Global(argument))

    def stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is no text")
        self._stack.append(_Global(f"{module} {name}"))

    def persistent(self, _: Any) -> None:
        """What is not in the pickle itself: PyTorch gives ('storage', class, key, device, elements)."""
        value = self._stack.pop()
        if isinstance(value, tuple) and len(value) >= 3 and value[0] == "storage":
            _, dtype, key, *_rest = value
            if isinstance(dtype, _Global) and isinstance(key, str):
                self._stack.append(_Storage(dtype, key))
                return
        self._stack.append(_Node())

    def reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_called(function, arguments))

    def new_object_keywords(self, _: Any) -> None:
        del self._stack[-3:]
        self._stack.append(_Node())

    def build(self, _: Any) -> None:
        """State of an object: what it holds."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], _Node):
            self._stack[-1].items.append(("", state))


def _called(function: Any, arguments: Any, depth: int = 0) -> Any:
    """Return what stands for the result of a call: a tensor where it is one of PyTorch's that make tensors."""
    name = function.name if isinstance(function, _Global) else ""
    if not isinstance(arguments, tuple):
        raise TypeError("arguments are no tuple")
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        return _tensor(arguments, arguments[0].dtype)
    if name == "torch._utils _rebuild_tensor_v3":
        return _tensor(arguments, arguments[6])
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    if name == "torch._tensor _rebuild_from_type_v2" and not depth:
        return _called(arguments[0], arguments[2], depth + 1)
    # OrderedDict() and everything unknown: what it was made from may hold tensors as well. Not copied: a pickle can
    # use one long tuple as often as it likes.
    return _Node([("", arguments)])


def _tensor(arguments: tuple[Any, ...], dtype: Any) -> _Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage) or not isinstance(dtype, _Global):
        raise TypeError("a tensor has no storage")
    if not _are_counts((offset,)) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise TypeError("a tensor has no proper shape")
    return _Tensor(storage, dtype, offset, shape, strides)


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _collect(root: Any) -> list[Traced]:
    """Return the tensors below *root*; each container is entered once, however often it is mentioned."""
    found: list[Traced] = []
    seen: set[int] = set()
    open_: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter([("", root)]))]
    while open_:
        prefix, items = open_[-1]
        key, value = next(items, (None, _END))
        if value is _END:
            open_.pop()
        elif isinstance(value, _Tensor):
            found.append(_traced(_join(prefix, key), value))
        elif isinstance(value, _Node | tuple) and id(value) not in seen:
            seen.add(id(value))
            below = value.items if isinstance(value, _Node) else enumerate(value)
            open_.append((_join(prefix, key), iter(below)))
        if len(open_) > _MAX_DEPTH or len(found) > _MAX_TENSORS:
            raise ValueError("too deep, or too many")
    return found


def _join(path: str, key: Any) -> str:
    word = key if isinstance(key, str) else str(key) if type(key) is int and abs(key) < 1 << 63 else "?"
    return f"{path}.{word}".strip(".")[:_MAX_PATH_CHARACTERS]


def _traced(path: str, tensor: _Tensor) -> Traced:
    kind = tensor.dtype.name.removeprefix("torch ").removeprefix("torch.storage ").removesuffix("Storage")
    dtype, item_bytes = _DTYPES[kind]
    return Traced(path, tensor.storage.key, dtype, item_bytes, tensor.offset, tensor.shape, tensor.strides)


_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    ]
)
"""Opcodes that push their argument."""
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": _Node,
    "EMPTY_DICT": _Node,
    "EMPTY_SET": _Node,
}
"""Opcodes that push a value of their own."""
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "TUPLE": _Machine.tuple_marked,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "LIST": _Machine.container,
    "FROZENSET": _Machine.container,
    "DICT": _Machine.mapping,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_object_keywords,
    "BUILD": _Machine.build,
}
"""What the other opcodes that checkpoints use do; any other ends the trace."""
