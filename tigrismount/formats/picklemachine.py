"""The stack machine of pickles, on values that cannot do anything.

Each opcode does here what it does in CPython, but that a function is only its name (``Global``), a call of one of
PyTorch's own functions is a note of its arguments (``Tensor``), a storage is its key, and everything else that holds
something is a ``Node``: the things it holds, by key. No name is looked up, no module imported, no object of the
file's choosing made.

Every opcode makes at most one small value, and copies are never made (what a pickle uses twice is one value here,
too), so the bound on opcodes bounds time and memory: at most a second and 60 MiB.

Source: CPython ``Lib/pickletools.py``; PyTorch ``torch/_utils.py`` and ``torch/_weights_only_unpickler.py``.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_OPCODES = 400_000
"""Opcodes that are followed: 10,000 tensors at some 35 each; checkpoints have hundreds in a file."""


@dataclass(eq=False, slots=True)
class Global:
    """A name that the pickle mentions."""

    name: str
    """Module and name, as ``module name``."""


@dataclass(eq=False, slots=True)
class Storage:
    """Bytes that tensors share, as the pickle refers to them."""

    dtype: Global
    """Storage class."""
    key: str
    """Its key: member ``data/KEY`` of the archive."""


@dataclass(eq=False, slots=True)
class Tensor:
    """What a call that makes a tensor stands for."""

    storage: Storage
    """Where its elements are."""
    dtype: Global
    """Storage class or element type."""
    offset: int
    """Elements of the storage before its first."""
    shape: tuple[int, ...]
    """Elements along each dimension."""
    strides: tuple[int, ...]
    """Elements from one to the next along each dimension."""


@dataclass(eq=False, slots=True)
class Node:
    """A container, or an object that we know nothing about: what it holds, by key."""

    items: list[tuple[Any, Any]] = field(default_factory=list)
    """Keys and values."""


_MARK = object()


class Machine:
    """A pickle's stack and memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Follow all opcodes; return what is on top of the stack at the end.

        Raises:
            Exception: Of any kind that its stack and its values have, where the pickle makes no sense.
        """
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

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _tuple_marked(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _tuple_1(self, _: Any) -> None:
        self._tuple(1)

    def _tuple_2(self, _: Any) -> None:
        self._tuple(2)

    def _tuple_3(self, _: Any) -> None:
        self._tuple(3)

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) != count:
            raise ValueError("stack is empty")
        del self._stack[-count:]
        self._stack.append(values)

    def _container(self, _: Any) -> None:
        self._stack.append(Node(list(enumerate(self._marked()))))

    def _mapping(self, _: Any) -> None:
        values = self._marked()
        self._stack.append(Node(list(zip(values[::2], values[1::2], strict=True))))

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        items = self._stack[-1].items
        items.extend(enumerate(values, len(items)))

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._stack[-1].items.append((key, value))

    def _set_items(self, _: Any) -> None:
        values = self._marked()
        self._stack[-1].items.extend(zip(values[::2], values[1::2], strict=True))

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _global_(self, argument: str) -> None:
        self._stack.append(Global(argument))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is no text")
        self._stack.append(Global(f"{module} {name}"))

    def _persistent(self, _: Any) -> None:
        """What is not in the pickle itself: PyTorch gives ('storage', class, key, device, elements)."""
        value = self._stack.pop()
        if isinstance(value, tuple) and len(value) >= 3 and value[0] == "storage":
            _, dtype, key, *_rest = value
            if isinstance(dtype, Global) and isinstance(key, str):
                self._stack.append(Storage(dtype, key))
                return
        self._stack.append(Node())

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_called(function, arguments))

    def _new_object_keywords(self, _: Any) -> None:
        del self._stack[-3:]
        self._stack.append(Node())

    def _build(self, _: Any) -> None:
        """State of an object: what it holds."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], Node):
            self._stack[-1].items.append(("", state))


def _called(function: Any, arguments: Any, depth: int = 0) -> Any:
    """Return what stands for the result of a call: a tensor where it is one of PyTorch's that make tensors."""
    name = function.name if isinstance(function, Global) else ""
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
    return Node([("", arguments)])


def _tensor(arguments: tuple[Any, ...], dtype: Any) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise TypeError("a tensor has no storage")
    if not _are_counts((offset,)) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise TypeError("a tensor has no proper shape")
    return Tensor(storage, dtype, offset, shape, strides)


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


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
    "EMPTY_LIST": Node,
    "EMPTY_DICT": Node,
    "EMPTY_SET": Node,
}
"""Opcodes that push a value of their own."""
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._duplicate,
    "TUPLE": Machine._tuple_marked,
    "TUPLE1": Machine._tuple_1,
    "TUPLE2": Machine._tuple_2,
    "TUPLE3": Machine._tuple_3,
    "LIST": Machine._container,
    "FROZENSET": Machine._container,
    "DICT": Machine._mapping,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "GLOBAL": Machine._global_,
    "STACK_GLOBAL": Machine._stack_global,
    "BINPERSID": Machine._persistent,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._new_object_keywords,
    "BUILD": Machine._build,
}
"""What the other opcodes that checkpoints use do; any other ends the trace."""
