"""Nothing but FUSEError leaves a handler, and answers say what the filesystem said."""

from __future__ import annotations

import errno
import math
import os
import stat

import pyfuse3
import pytest
import trio

from tigrismount.errors import ObjectUnavailableError, StaleObjectError, TigrisMountError, UnknownNodeError
from tigrismount.fuse.adapter import Adapter, RepeatedFailures
from tigrismount.fuse.options import FuseConfig
from tigrismount.vfs.entries import Attributes, Entry, FilesystemInfo, NegativeEntry

HANDLERS = {
    "lookup": (1, b"name", None),
    "getattr": (7, None),
    "readlink": (7, None),
    "getxattr": (7, b"user.tigris.etag", None),
    "listxattr": (7, None),
    "opendir": (1, None),
    "readdir": (1, 0, None),
    "open": (7, os.O_RDONLY, None),
    "read": (7, 0, 10),
}
NEVER_FAIL = {"forget": ([(7, 1)],), "release": (7,), "releasedir": (1,)}


class ScriptedFileSystem:
    """A filesystem whose every method raises, answers or hangs as told."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def _now(self, *_: object) -> object:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def _later(self, *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        if self.outcome == "hang":
            await trio.sleep_forever()
        return self._now(*args)

    lookup = getattr = readlink = getxattr = listxattr = opendir = readdir = open = read = _later
    forget = release = releasedir = _now

    def try_read(self, *_: object) -> None:
        return None

    def statfs(self) -> FilesystemInfo:
        return FilesystemInfo()


def adapter(outcome: object) -> Adapter:
    return Adapter(ScriptedFileSystem(outcome), FuseConfig(request_deadline_s=60.0))  # type: ignore[arg-type]


def test_every_handler_is_among_those_that_are_tried_here() -> None:
    """One that is forgotten may let through what ends the daemon."""
    own = {name for name in vars(Adapter) if hasattr(pyfuse3.Operations, name) and not name.startswith("_")}
    assert {name for name in own if callable(getattr(Adapter, name))} == {*HANDLERS, *NEVER_FAIL, "statfs"}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ObjectUnavailableError("spent"), errno.EIO),
        (StaleObjectError("changed"), errno.ESTALE),
        (UnknownNodeError("?"), errno.ESTALE),
        (ZeroDivisionError("a bug"), errno.EIO),
        (KeyError("another"), errno.EIO),
        (OSError(errno.ENOSPC, "foreign"), errno.EIO),
        (pyfuse3.FUSEError(errno.ENOSYS), errno.ENOSYS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_whatever_is_raised_the_kernel_gets_an_errno(handler: str, error: Exception, expected: int) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(adapter(error), handler)(*HANDLERS[handler])
    assert caught.value.errno == expected


@pytest.mark.parametrize("handler", NEVER_FAIL)
async def test_what_must_not_fail_does_not(handler: str) -> None:
    await getattr(adapter(ZeroDivisionError("a bug")), handler)(*NEVER_FAIL[handler])


@pytest.mark.parametrize("handler", NEVER_FAIL)
async def test_what_the_kernel_lets_go_of_reaches_the_filesystem(handler: str) -> None:
    """Mutation: where one stops here, all still works, and memory grows until the daemon ends."""
    asked: list[tuple[object, ...]] = []
    answers = adapter(None)
    setattr(answers._filesystem, handler, lambda *arguments: asked.append(arguments))
    await getattr(answers, handler)(*NEVER_FAIL[handler])
    assert asked == [NEVER_FAIL[handler]]


async def test_a_reader_that_does_not_give_up_is_slowed_down_and_its_failures_counted(autojump_clock: object) -> None:
    answers = adapter(ObjectUnavailableError("spent"))
    for _ in range(12):
        with pytest.raises(pyfuse3.FUSEError):
            await answers.read(7, 4096, 10)
    assert trio.current_time() > 1, "without the waits none passes"
    assert answers.errors == {"EIO": 12}


@pytest.mark.parametrize("handler", ["lookup", "readdir", "open", "read"])
async def test_a_request_that_hangs_ends_at_its_deadline(handler: str, autojump_clock: object) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(adapter("hang"), handler)(*HANDLERS[handler])
    assert caught.value.errno == errno.EIO
    assert trio.current_time() == pytest.approx(60.0, abs=1.1)


async def test_cancellation_passes(autojump_clock: object) -> None:
    with trio.move_on_after(1) as scope:
        await adapter("hang").read(7, 0, 10)
    assert scope.cancelled_caught


async def test_an_entry_is_translated() -> None:
    attributes = Attributes(99, stat.S_IFREG | 0o444, 1025, 1_700_000_000_123_000_000, 5, 6)
    answer = await adapter(Entry(attributes, 60.0)).lookup(1, b"a", None)
    assert (answer.st_ino, answer.st_size, answer.st_blocks) == (99, 1025, 3)
    assert (answer.st_mode, answer.st_uid, answer.st_gid, answer.st_blksize) == (stat.S_IFREG | 0o444, 5, 6, 4096)
    assert answer.st_mtime_ns == 1_700_000_000_123_000_000
    assert answer.entry_timeout == 60.0
    assert answer.attr_timeout > 86400 * 365, "a version's attributes hold for ever"


async def test_for_ever_does_not_overflow_the_kernels_timers() -> None:
    attributes = Attributes(99, stat.S_IFREG | 0o444, 1, 0, 0, 0)
    answer = await adapter(Entry(attributes, math.inf)).lookup(1, b"a", None)
    assert 86400 * 365 < answer.entry_timeout < 2**31


async def test_links_and_extended_attributes_pass_and_a_missing_attribute_is_enodata() -> None:
    assert await adapter(b"../target").readlink(7, None) == b"../target"
    assert await adapter(b"etag").getxattr(7, b"user.tigris.etag", None) == b"etag"
    assert await adapter([b"user.tigris.etag"]).listxattr(7, None) == [b"user.tigris.etag"]
    for name, expected in ((b"user.mime_type", errno.ENODATA), (b"security.capability", errno.ENOTSUP)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await adapter(None).getxattr(7, name, None)
        assert caught.value.errno == expected


async def test_a_missing_name_is_remembered_for_its_ttl() -> None:
    answer = await adapter(NegativeEntry(5.0)).lookup(1, b"a", None)
    assert (answer.st_ino, answer.entry_timeout) == (0, 5.0)


async def test_a_missing_name_without_a_ttl_is_plain_enoent() -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await adapter(NegativeEntry(0.0)).lookup(1, b"a", None)
    assert caught.value.errno == errno.ENOENT


async def test_opening_keeps_the_kernels_pages() -> None:
    info = await adapter(None).open(7, os.O_RDONLY, None)
    assert info.keep_cache
    assert not info.direct_io, "direct_io would break MAP_SHARED"
    assert info.fh == 7


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
async def test_nobody_may_open_a_file_to_write(flags: int) -> None:
    """The kernel asks where root has mounted again without ``ro``: a page that is written to is every reader's."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await adapter(None).open(7, flags, None)
    assert caught.value.errno == errno.EROFS


def test_a_page_that_fails_again_and_again_is_answered_ever_more_slowly() -> None:
    now_s = [0.0]
    failures = RepeatedFailures(lambda: now_s[0])
    waits = [failures.note(7, 4096) for _ in range(12)]
    assert waits[0] == 0.0, "the first failure is told at once"
    assert waits == sorted(waits)
    assert waits[-1] == 1.0
    assert failures.note(7, 8192) == 0.0, "another place is another matter"
    now_s[0] = 1000.0
    assert failures.note(7, 4096) == 0.0, "long ago is forgotten"


async def test_a_page_that_fails_a_thousand_times_gets_an_errno_each_time(autojump_clock: object) -> None:
    """Two to the power of a thousand failures is no float: the error left the handler, and ended the daemon."""
    failing = adapter(StaleObjectError("gone"))
    for _ in range(1023):
        failing._failures.note(7, 0)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await failing.read(7, 0, 4096)
    assert caught.value.errno == errno.ESTALE


async def test_an_error_of_ours_without_an_errno_does_not_end_the_daemon() -> None:
    class HomelessError(TigrisMountError):
        pass

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await adapter(HomelessError("x")).getattr(7, None)
    assert caught.value.errno == errno.EIO
