"""How a call is refused: a code that Kubernetes acts on, and a line that a person can act on.

The codes are gRPC's by name; which one stands for what is documented in ``docs/reference/csi.md``.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.csi.mounts import FailureKind, MountFailure, Secret


class Code(Enum):
    """The codes of gRPC that this driver answers with."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


_CODES: dict[FailureKind, Code] = {
    "bad_option": Code.INVALID_ARGUMENT,
    "no_bucket": Code.NOT_FOUND,
    "denied": Code.PERMISSION_DENIED,
    "bad_credentials": Code.UNAUTHENTICATED,
    "unreachable": Code.UNAVAILABLE,
    "no_mounter": Code.UNAVAILABLE,
    "timeout": Code.DEADLINE_EXCEEDED,
    "internal": Code.INTERNAL,
}

_ABOUT_KEYS = ("denied", "bad_credentials")
_OWN_SECRET = "the key comes from the Secret that nodePublishSecretRef names"  # noqa: S105 -- no secret
_NO_SECRET = "the volume has no nodePublishSecretRef, so the driver's own key was used"  # noqa: S105 -- no secret


class RefusalError(Exception):
    """A call ends with an error.

    Args:
        code: What Kubernetes sees.
        message: What, where, and what to do next; one line, no secrets.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RefusalError:
    """Return the refusal of a request that can never succeed as it is."""
    return RefusalError(Code.INVALID_ARGUMENT, message)


def refusal_of(failure: MountFailure, keys: Secret) -> RefusalError:
    """Return what a failed mount is to the caller.

    Args:
        failure: As the mounts said it.
        keys: The volume's own key, empty for the driver's; its values are taken out of the message.
    """
    message = " ".join(failure.message.split())
    for value in keys.values():
        message = message.replace(value, "…")
    if failure.kind in _ABOUT_KEYS:
        message = f"{message}; {_OWN_SECRET if keys else _NO_SECRET}"
    return RefusalError(_CODES[failure.kind], message)
