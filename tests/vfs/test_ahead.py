"""Pages of a directory that are fetched before somebody waits for them: one ahead, for those who read on."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.errors import ObjectUnavailableError

NAMES = 5000


@asynccontextmanager
async def opened(world):
    """Run the file system and give the node of the directory that is listed; requests are counted from here."""
    directory = await world.walk("0000")
    world.client.requests.clear()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fs.run)
        yield directory
        nursery.cancel_scope.cancel()


@pytest.fixture
def world(new_grid_world):
    return new_grid_world(1, NAMES)


async def test_who_takes_one_reply_has_nothing_fetched_ahead(world):
    async with opened(world) as directory:
        assert len(await world.readdir(directory, limit=100)) == 100
        await wait_all_tasks_blocked()
        assert len(world.requests) == 1


async def test_who_reads_on_finds_the_next_page_there_and_never_more_than_one(world):
    async with opened(world) as directory:
        taken = await world.readdir(directory, limit=100)
        taken = await world.readdir(directory, taken[-1][2], limit=100)
        await wait_all_tasks_blocked()
        assert len(world.requests) == 2
        await world.readdir(directory, taken[-1][2], limit=100)
        await wait_all_tasks_blocked()
        assert world.requests == [], "a page ahead is enough"
        for _ in range(10):
            taken = await world.readdir(directory, taken[-1][2], limit=100)
            await wait_all_tasks_blocked()
        assert len(world.requests) == 1, "the third one as the second one"


async def test_all_of_a_directory_costs_its_pages_and_no_more_with_many_readers_too(world):
    async def read_all():
        cursor, names = 0, []
        while taken := await world.readdir(directory, cursor, limit=170):
            names += [name for name, _, _ in taken]
            cursor = taken[-1][2]
        assert len(names) == len(set(names)) == NAMES

    async with opened(world) as directory:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_all)
        await wait_all_tasks_blocked()
        assert len(world.requests) == NAMES / 1000


async def test_a_page_that_could_not_be_had_ahead_is_asked_for_again_and_by_whom_it_concerns(world):
    async with opened(world) as directory:
        taken = await world.readdir(directory, limit=990)
        list_page, broken = world.client.list_page, True

        async def failing(*arguments, **options):
            if broken:
                raise ObjectUnavailableError("the store is away")
            return await list_page(*arguments, **options)

        world.client.list_page = failing
        taken = await world.readdir(directory, taken[-1][2], limit=100)  # what is left of the page
        await wait_all_tasks_blocked()
        assert len(taken) == 9, "the last one may be a directory, which the next page says"
        with pytest.raises(ObjectUnavailableError):
            await world.readdir(directory, taken[-1][2])
        broken = False
        assert len(await world.readdir(directory, taken[-1][2])) >= 1000


async def test_a_fault_of_our_own_ahead_of_a_reader_ends_nothing_but_the_readers_call(world, caplog):
    """Mutation: where only what the store may say is caught, the whole mount ends, and no handler gives an errno."""
    async with opened(world) as directory:
        taken = await world.readdir(directory, limit=990)
        list_page = world.client.list_page

        async def broken(*arguments, **options):
            raise RuntimeError("nobody foresaw this")

        world.client.list_page = broken
        taken = await world.readdir(directory, taken[-1][2], limit=100)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await world.readdir(directory, taken[-1][2])
        world.client.list_page = list_page
        assert len(await world.readdir(directory, taken[-1][2])) >= 1000
    assert "nobody foresaw this" in caplog.text


async def test_nothing_is_fetched_ahead_of_a_file_system_that_does_not_run(world):
    directory = await world.walk("0000")
    world.client.requests.clear()
    taken = await world.readdir(directory, limit=900)
    await world.readdir(directory, taken[-1][2], limit=50)
    await wait_all_tasks_blocked()
    assert len(world.requests) == 1
