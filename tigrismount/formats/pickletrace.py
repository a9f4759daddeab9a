"""What a checkpoint's pickle says about its tensors, found by reading it as data. Nothing is ever executed.

A pickle is a program for a stack machine that builds objects and calls functions; ``picklemachine`` follows it on
values that cannot do anything. Here the tensors among them are found and named by the path of keys that leads to
them, which says of each which part of which storage it is. A hostile pickle can at most make us give up, and a pickle
that we cannot follow costs the names, not the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.errors import FormatError
from tigrismount.formats.picklemachine import Machine, Node, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_PATH_CHARACTERS = 500
"""Longest name that we give a tensor: real ones are below 200."""
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


_END = object()


def trace(data: bytes) -> list[Traced]:
    """Return the tensors of a pickle, in the order in which it reaches them.

    Args:
        data: The whole pickle.

    Raises:
        FormatError: It is no pickle, or does something that we cannot follow.
    """
    try:
        return _collect(Machine().run(data))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, DeprecationWarning) as exc:
        # The last is what odd escapes in old string opcodes come to where warnings are errors.
        raise FormatError(f"pickle cannot be followed: {type(exc).__name__}") from exc


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
        elif isinstance(value, Tensor):
            found.append(_traced(_join(prefix, key), value))
        elif isinstance(value, Node | tuple) and id(value) not in seen:
            seen.add(id(value))
            below = value.items if isinstance(value, Node) else enumerate(value)
            open_.append((_join(prefix, key), iter(below)))
        if len(open_) > _MAX_DEPTH or len(found) > _MAX_TENSORS:
            raise ValueError("too deep, or too many")
    return found


def _join(path: str, key: Any) -> str:
    word = key if isinstance(key, str) else str(key) if type(key) is int and abs(key) < 1 << 63 else "?"
    return f"{path}.{word}".strip(".")[:_MAX_PATH_CHARACTERS]


def _traced(path: str, tensor: Tensor) -> Traced:
    kind = tensor.dtype.name.removeprefix("torch ").removeprefix("torch.storage ").removesuffix("Storage")
    dtype, item_bytes = _DTYPES[kind]
    return Traced(path, tensor.storage.key, dtype, item_bytes, tensor.offset, tensor.shape, tensor.strides)
