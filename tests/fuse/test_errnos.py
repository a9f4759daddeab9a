"""Each of our exceptions means an errno, and each row of the published table is what the code says."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tigrismount import errors
from tigrismount.fuse.errnos import ERRNOS, errno_of


def _subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def test_every_error_class_has_an_errno() -> None:
    kinds = [k for k in _subclasses(errors.TigrisMountError) if k.__module__ == errors.__name__]
    assert len(kinds) > 15
    for kind in kinds:
        assert errno_of(kind("x")) in errno.errorcode


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.ObjectNotFoundError, "ENOENT"),
        (errors.ObjectAccessError, "EACCES"),
        (errors.ObjectArchivedError, "EACCES"),
        (errors.UnknownNodeError, "ESTALE"),
        (errors.StaleObjectError, "ESTALE"),
        (errors.ObjectUnavailableError, "EIO"),
        (errors.SlowDownError, "EIO"),
        (errors.ObjectProtocolError, "EIO"),
        (errors.NameTooLongError, "ENAMETOOLONG"),
        (errors.InvalidNameError, "EINVAL"),
    ],
)
def test_the_published_table(kind: type[errors.TigrisMountError], expected: str) -> None:
    assert errno.errorcode[errno_of(kind("x"))] == expected


def test_a_class_without_a_row_is_a_loud_mistake() -> None:
    class HomelessError(errors.TigrisMountError):
        pass

    with pytest.raises(LookupError, match="HomelessError"):
        errno_of(HomelessError("x"))
    assert errors.TigrisMountError not in ERRNOS, "a row for the base would hide a missing one"
