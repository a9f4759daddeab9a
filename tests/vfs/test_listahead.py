"""Names that are asked for one by one: from the third on, a page of the listing answers the rest."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.core.listing import Dentry
from tigrismount.core.names import DirectoryKey
from tigrismount.errors import ObjectAccessError
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.directory import Directories
from tigrismount.vfs.names import NamePage
from tigrismount.vfs.options import VfsConfig

LIST = ("LIST", "d/", None)


class SlowLister(MemoryObjectClient):
    """Answers a listing of many rows with what was there when it was asked, once the test says go, or breaks."""

    def __init__(self):
        super().__init__()
        self.answer = trio.Event()
        self.broken = False

    async def list_page(self, bucket, prefix, *, max_keys=1000, **rest):
        page = await super().list_page(bucket, prefix, max_keys=max_keys, **rest)
        if max_keys > 1:
            await self.answer.wait()
            assert not self.broken
        return page


@asynccontextmanager
async def running(world):
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fs.run)
        world.directory = await world.walk("d")
        assert world.requests
        yield world
        nursery.cancel_scope.cancel()


async def ask(world, *names):
    """Look names up, and let what that began come to its end; return which were there."""
    found = []
    for name in names:
        entry = await world.fs.lookup(world.directory, name.encode())
        found += [name] if hasattr(entry, "attributes") else []
        await wait_all_tasks_blocked()
    return found


async def test_after_three_names_the_others_cost_nothing_missing_ones_too(new_world):
    async with running(new_world(*(f"d/{name}" for name in "abcdefgh"))) as world:
        assert await ask(world, "a", "x") == ["a"]
        assert LIST not in world.requests
        assert await ask(world, "b") == ["b"]
        assert world.requests.count(LIST) == 1
        assert await ask(world, *"cdefgh", "y", "z") == list("cdefgh")
        assert world.requests == []


async def test_who_waits_for_a_file_sees_it_after_the_negative_ttl(new_world):
    """Mutation: trusted like a listing that somebody read, it would be seen after the TTL."""
    async with running(new_world("d/a", "d/b", "d/c", negative_ttl_s=5.0, metadata_ttl_s=60.0)) as world:
        assert await ask(world, "a", "b", "c", "ready") == ["a", "b", "c"]
        world.put("d/ready")
        world.now_s += 4.9
        assert await ask(world, "ready") == []
        world.now_s += 0.1
        assert await ask(world, "ready") == ["ready"]


async def test_who_waits_for_one_name_lists_nothing(new_world):
    """Mutation: counted look-up by look-up, the listing is from before the name, and so are all that it knows."""
    async with running(new_world("d/a", negative_ttl_s=5.0)) as world:
        for _ in range(10):
            assert await ask(world, "ready") == []
            world.now_s += 5.0
        assert LIST not in world.requests


async def test_who_lists_the_directory_goes_on_with_the_pages_that_are_there(new_grid_world):
    world = new_grid_world(1, 2500)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fs.run)
        world.directory = await world.walk("0000")
        await ask(world, "000007", "000008", "000009")
        assert await ask(world, "000999", "000998") == ["000999", "000998"]
        world.client.requests.clear()
        assert len(await world.ls(world.directory)) == 2500
        assert len(world.requests) == 2, "the first of three pages was there"
        nursery.cancel_scope.cancel()


async def test_who_lists_the_directory_once_a_file_is_there_sees_what_came_with_it(new_world):
    """Mutation: going on with the listing that look-ups made before, it is hidden for the TTL, from look-ups too."""
    async with running(new_world("d/a", "d/b", "d/c", negative_ttl_s=5.0, metadata_ttl_s=60.0)) as world:
        await ask(world, "a", "b", "c", "ready")
        ready = world.put("d/ready")
        world.put("d/new")
        world.now_s += 5.0
        assert await ask(world, "ready") == ["ready"]
        assert {name for name, _ in await world.fs.siblings(ready)} == {*"abc", "new", "ready"}
        assert await ask(world, "new") == ["new"]
        assert await world.names(world.directory) == [b"a", b"b", b"c", b"new", b"ready"]


async def test_a_store_that_lists_nothing_is_asked_once_and_look_ups_go_on(new_world):
    async with running(new_world(*(f"d/{name}" for name in "abcdef"))) as world:
        world.client.fail(ObjectAccessError("no listing"), "LIST", "d/", times=100)
        assert await ask(world, *"abcdef") == list("abcdef")
        assert world.requests.count(LIST) == 1


async def test_a_page_of_which_every_row_would_be_asked_for_is_left_alone_but_for_who_lists(new_world):
    """Empty keys may be links. Mutation: without a bound on the HEADs, three look-ups make twenty requests."""
    world = new_world(*(f"d/{number:02}" for number in range(20)))
    for number in range(20):
        world.put(f"d/{number:02}", b"")
    async with running(world) as world:
        names = [f"{number:02}" for number in range(20)]
        assert await ask(world, *names[:6]) == names[:6]
        made = world.requests
        assert made.count(LIST) == 1
        assert sum(request[0] == "HEAD" for request in made) == 6
        assert await world.names(world.directory) == [name.encode() for name in names]


async def test_who_lists_while_such_a_page_is_on_its_way_gets_all_of_it(new_world):
    """Mutation: who shares a page that is given up must ask again, not take it for the end."""
    world = new_world(*(f"d/{number:02}" for number in range(20)))
    for number in range(20):
        world.put(f"d/{number:02}", b"")
    listed = []

    async def read_names():
        listed.extend(await world.names(world.directory))

    async with running(world) as world:
        await ask(world, "00", "01")
        answer = world.client.hold("LIST", "d/")
        await ask(world, "02")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_names)
            await wait_all_tasks_blocked()
            assert world.requests.count(LIST) == 1, "they share it"
            answer.set()
    assert len(listed) == 20


async def test_a_page_from_before_a_refresh_answers_nobody_after_it(new_world):
    """Mutation: where a listing without a page is not marked, names are missing that the refresh was for."""
    async with running(new_world(*(f"d/{name}" for name in "abc"), client=SlowLister())) as world:
        assert await ask(world, *"abc") == list("abc")
        world.put("d/new")
        await world.fs.refresh([b"d", b"new"])
        world.client.answer.set()
        await wait_all_tasks_blocked()
        assert await ask(world, "new") == ["new"]


class SlowNames:
    """Says of every name that it is there, once the test says go, and that a page tells it; counts pages."""

    def __init__(self):
        self.go = trio.Event()
        self.pages = 0

    async def look_up(self, where, name, asked_s, on_sought):
        if name > b"003":
            await self.go.wait()
        on_sought()
        return Dentry(name, None, asked_s)

    async def page(self, where, token, *, start_after="", asks_max=0):
        self.pages += 1
        prefixes = [f"d/{self.pages - 1}{number:02}/" for number in range(100)]
        return NamePage((), prefixes, str(self.pages))


async def test_names_whose_page_came_meanwhile_do_not_count():
    """Mutation: where they do, the page behind it is fetched for them, of a snapshot too that has it not kept."""
    names = SlowNames()
    directories = Directories(names, VfsConfig(bucket="bucket"), trio.current_time)
    where = DirectoryKey("bucket", "d/")
    async with trio.open_nursery() as nursery:
        await nursery.start(directories.run)
        async with trio.open_nursery() as readers:
            for number in range(50):
                readers.start_soon(directories.find, where, b"%03d" % number)
            await wait_all_tasks_blocked()
            assert names.pages == 1
            names.go.set()
        await wait_all_tasks_blocked()
        assert names.pages == 1
        nursery.cancel_scope.cancel()


async def test_a_fault_of_ours_is_logged_once_and_look_ups_go_on(new_world, caplog):
    async with running(new_world(*(f"d/{name}" for name in "abc"), client=SlowLister())) as world:
        world.client.broken = True
        world.client.answer.set()
        names = [*"abc", *map(str, range(30))]
        assert await ask(world, *names) == list("abc")
        assert len(caplog.records) == world.requests.count(LIST) == 1
