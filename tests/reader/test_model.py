"""Models over a fake store: what is fetched when a load begins, and what follows the shard being read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectAccessError, ObjectUnavailableError
from tigrismount.reader import model as model_module
from tigrismount.reader.model import LEAVE_S, MAX_SMALL_FILES, begins_load
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.readers import Readers
from tigrismount.testing.waiting import no_threads

MIB = 1 << 20
BLOCK = 8 * MIB
SHARDS = [f"m/model-{number:05}-of-00004.safetensors" for number in range(1, 5)]


class Directory:
    """What lies beside each other in the fake store."""

    def __init__(self) -> None:
        self.files: list[ObjectId] = []
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def siblings(self, obj: ObjectId, below: str) -> list[tuple[str, ObjectId]]:
        await trio.lowlevel.checkpoint()
        self.asked.append((obj.key, below))
        if self.error is not None:
            raise self.error
        prefix = obj.key.rpartition("/")[0] + "/" + (below + "/" if below else "")
        return [(o.key.removeprefix(prefix), o) for o in self.files if o.key.rpartition("/")[0] + "/" == prefix]


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
async def readers(store, directory, nursery) -> Readers:
    made = Readers(store, ReaderConfig(), siblings=directory.siblings)
    await nursery.start(made.run)
    return made


@pytest.fixture
def model(store, directory) -> list[ObjectId]:
    """Four shards of 64 MiB with their index, a configuration and a tokenizer."""
    shards = [store.put_tensors(key, *[16 * MIB] * 4) for key in SHARDS]
    names = [key.removeprefix("m/") for key in SHARDS]
    index = json.dumps({"weight_map": {f"t{n}": names[n % 4] for n in range(16)}}).encode()
    directory.files = [
        store.put("m/config.json", 600, b"{}"),
        store.put("m/model.safetensors.index.json", len(index), index),
        store.put("m/tokenizer.json", 17 * MIB),
        store.put("m/optimizer.pt", 900 * MIB),
        *shards,
    ]
    return shards


def planned(store, obj: ObjectId) -> list[Extent]:
    return store.plans[obj][-1] if store.plans[obj] else []


async def read_on(reader, start: int, stop: int) -> None:
    for position in range(start, stop, MIB):
        await reader.read(position, min(position + MIB, stop))


@pytest.mark.parametrize("entry", [0, 1])
async def test_opening_the_configuration_fetches_small_files_and_all_heads(store, readers, directory, model, entry):
    opened = directory.files[entry]
    readers.open(opened, opened.key)
    await wait_all_tasks_blocked()
    for obj in directory.files[:3]:
        assert planned(store, obj) == [Extent(0, obj.size_bytes)], obj.key
    for obj in model:
        assert planned(store, obj) == [Extent(0, BLOCK)]
    assert planned(store, directory.files[3]) == [], "no loader of the shards reads that"
    assert readers.statistics().probes == 4, "the layouts of all shards are known before the first is opened"


async def test_a_directory_is_asked_for_once_however_many_of_its_files_are_opened(store, readers, directory, model):
    for obj in (*directory.files[:2], *model):
        readers.open(obj, obj.key)
    await wait_all_tasks_blocked()
    assert len(directory.asked) == 1


async def test_other_files_ask_for_nothing(store, readers, directory, model):
    for key in ("m/tokenizer.json", "m/optimizer.pt", "m/model.safetensors", "m/readme-1-of-me"):
        readers.open(store.put(key, 100 * MIB), key)
    await wait_all_tasks_blocked()
    assert directory.asked == []


async def test_the_next_shard_begins_while_this_one_is_read_and_needs_no_ramp(store, readers, model):
    first = readers.open(model[0], model[0].key)
    await wait_all_tasks_blocked()
    await read_on(first, 0, 24 * MIB)
    assert planned(store, model[1]) == [Extent(0, BLOCK)]
    await read_on(first, 24 * MIB, 48 * MIB)
    assert planned(store, model[1])[0].stop >= 48 * MIB
    assert (store.priority[model[0]], store.priority[model[1]]) == (Priority.PREFETCH, Priority.LATER)
    await read_on(first, 48 * MIB, model[0].size_bytes)
    readers.close(first)
    second = readers.open(model[1], model[1].key)
    await wait_all_tasks_blocked()
    assert planned(store, model[1])[0].stop >= 48 * MIB, "what spilled outlives the close between two shards"
    store.resident = True
    second.try_read(BLOCK, BLOCK + MIB)
    assert planned(store, model[1])[-1].stop == model[1].size_bytes
    assert planned(store, model[2])[0].stop > BLOCK, "and from its first window on the one after it has begun"


async def test_a_reader_of_half_the_model_leaves_the_other_half_alone(store, readers, model, autojump_clock):
    for obj in model[:2]:
        reader = readers.open(obj, obj.key)
        await wait_all_tasks_blocked()
        await read_on(reader, 0, obj.size_bytes)
        readers.close(reader)
    await trio.sleep(2)
    assert planned(store, model[2]) == planned(store, model[3]) == [Extent(0, BLOCK)]
    await trio.sleep(100)
    assert planned(store, model[2]) == planned(store, model[3]) == []


async def test_without_an_index_numbers_in_the_names_say_the_order(store, readers, directory, model):
    directory.files = [obj for obj in reversed(directory.files) if not obj.key.endswith("index.json")]
    reader = readers.open(model[0], model[0].key)
    await wait_all_tasks_blocked()
    await read_on(reader, 0, 48 * MIB)
    assert planned(store, model[1])[0].stop >= 48 * MIB


async def test_a_file_of_another_checkpoint_is_not_dragged_along(store, readers, directory, model):
    """Mistral repositories hold the same weights twice, and a directory of adapters is no model."""
    others = [store.put_tensors(f"m/consolidated-{n}-of-2.safetensors", *[16 * MIB] * 4) for n in (1, 2)]
    adapters = [store.put_tensors(f"m/lora_{n}.safetensors", *[16 * MIB] * 4) for n in range(3)]
    directory.files += [*others, *adapters]
    reader = readers.open(model[0], model[0].key)
    await wait_all_tasks_blocked()
    await read_on(reader, 0, model[0].size_bytes)
    readers.open(adapters[0], adapters[0].key)
    await wait_all_tasks_blocked()
    assert [planned(store, obj) for obj in (*others, *adapters)] == [[]] * 5


async def test_a_pipeline_fetches_the_small_files_and_heads_of_its_components(store, readers, directory):
    text = b'{"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "extra": [null, null]}'
    root = store.put("p/model_index.json", len(text), text)
    config = store.put("p/unet/config.json", 500)
    unet = store.put_tensors("p/unet/diffusion_pytorch_model.safetensors", *[16 * MIB] * 4)
    directory.files = [root, config, unet]
    readers.open(root, root.key)
    await wait_all_tasks_blocked()
    assert [below for _, below in directory.asked] == ["", "unet", "vae"]
    assert planned(store, config) == [Extent(0, 500)]
    assert planned(store, unet) == [Extent(0, BLOCK)]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"weight_map": {"a": "../../x"}}', b"\xff" * 100, b'{"weight_map": {"a": "gone"}}']
)
async def test_a_hostile_index_costs_its_word_only(store, readers, directory, model, text):
    directory.files[1] = store.put("m/model.safetensors.index.json", len(text), text)
    readers.open(directory.files[0], "m/config.json")
    await wait_all_tasks_blocked()
    assert planned(store, model[3]) == [Extent(0, BLOCK)], "the numbers in the names are there"


async def test_a_long_index_is_parsed_in_a_thread_and_too_long_a_one_not_at_all(store, readers, directory, model):
    names = [key.removeprefix("m/") for key in SHARDS]
    index = json.dumps({"weight_map": {f"layers.{n}.weight": names[n % 4] for n in range(4000)}}).encode()
    directory.files[1] = store.put("m/model.safetensors.index.json", len(index), index)
    directory.files.append(store.put("m/pytorch_model.bin.index.json", 17 * MIB))
    readers.open(directory.files[0], "m/config.json")
    with trio.fail_after(30):
        while not planned(store, model[3]):  # noqa: ASYNC110 - the end of a thread that nobody tells of
            await trio.sleep(0.01)
    assert not [read for read in store.reads if read[0] is directory.files[-1]]


async def test_a_directory_that_cannot_be_listed_costs_the_plan_only(store, readers, directory, model):
    directory.error = ObjectAccessError("no listing")
    reader = readers.open(model[0], model[0].key)
    await wait_all_tasks_blocked()
    await read_on(reader, 0, 48 * MIB)
    assert planned(store, model[0]) != []
    assert planned(store, model[1]) == []


async def test_a_mistake_of_ours_in_planning_costs_a_traceback_in_the_log(store, readers, directory, model, caplog):
    directory.error = ValueError("a mistake")
    reader = readers.open(model[0], model[0].key)
    await wait_all_tasks_blocked()
    assert len(await reader.read(0, MIB)) == MIB
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_prefetch_file_looks_at_no_directory(store, directory, model, nursery):
    readers = Readers(store, ReaderConfig(prefetch="file"), siblings=directory.siblings)
    await nursery.start(readers.run)
    readers.open(directory.files[0], "m/config.json")
    await wait_all_tasks_blocked()
    assert directory.asked == []


@pytest.mark.parametrize("key", ["a/config.json", "model_index.json", "x.bin.index.json", "m-00001-of-00002.gguf"])
def test_what_begins_a_load(key):
    assert begins_load(key)


async def backwards(readers: Readers, obj: ObjectId) -> None:
    reader = readers.open(obj, obj.key)
    await reader.read(0, MIB)
    await wait_all_tasks_blocked()
    for tensor in reversed(range(16)):
        await read_on(reader, tensor * 16 * MIB, min((tensor + 1) * 16 * MIB, obj.size_bytes))
    readers.close(reader)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("again", ["the version", "its next version", "a shard of the same shape"])
async def test_an_order_is_learned_and_followed(store, nursery, again):
    disk = MemoryBlockCache(block_bytes=BLOCK)
    first = store.put_tensors("m/a.safetensors", *[16 * MIB] * 16)
    for load in range(2):
        readers = Readers(store, ReaderConfig(), records=disk.records)
        await nursery.start(readers.run)
        obj = first
        if load and again != "the version":
            key = "m/a.safetensors" if again == "its next version" else "m/b.safetensors"
            obj = store.put_tensors(key, *[16 * MIB] * 16)
        if load:
            reader = readers.open(obj, obj.key)
            await reader.read(0, MIB)
            await wait_all_tasks_blocked()
            assert readers.statistics().orders_followed == 1
            await reader.read(15 * 16 * MIB, 15 * 16 * MIB + MIB)
            assert planned(store, obj)[0].start >= 14 * 16 * MIB
            assert Extent(14 * 16 * MIB, 15 * 16 * MIB) in planned(store, obj), "the tensor before it comes next"
        else:
            await backwards(readers, obj)
            assert readers.statistics().orders_learned == 1


async def test_a_damaged_order_is_not_followed(store, nursery):
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = store.put_tensors("m/a.safetensors", *[16 * MIB] * 16)
    readers = Readers(store, ReaderConfig(), records=disk.records)
    await nursery.start(readers.run)
    await backwards(readers, obj)
    for key, _ in await disk.records.items("orders"):
        await disk.records.put("orders", key, b"nonsense")
    again = Readers(store, ReaderConfig(), records=disk.records)
    await nursery.start(again.run)
    await again.open(obj, obj.key).read(0, MIB)
    await wait_all_tasks_blocked()
    assert again.statistics().orders_followed == 0


async def test_a_file_read_in_earnest_is_fetched_to_its_end_for_a_disk_that_has_room(store, nursery):
    obj = store.put_tensors("m/a.safetensors", *[16 * MIB] * 16)
    for limit_bytes, wanted in ((obj.size_bytes, True), (obj.size_bytes - 1, False)):
        readers = Readers(store, ReaderConfig(), fill_limit_bytes=limit_bytes)
        await nursery.start(readers.run)
        reader = readers.open(obj, obj.key)
        await read_on(reader, 0, 100 * MIB)
        assert store.later[obj] == []
        await read_on(reader, 100 * MIB, 180 * MIB)
        assert bool(store.later[obj]) is wanted


async def test_small_files_are_let_go_after_a_minute_and_wanted_again_by_the_next_load(
    store, readers, directory, model, autojump_clock
):
    config, tokenizer = directory.files[0], directory.files[2]
    for _ in range(2):
        readers.close(readers.open(config, config.key))
        await wait_all_tasks_blocked()
        assert planned(store, tokenizer) == [Extent(0, tokenizer.size_bytes)]
        await trio.sleep(100)
        assert planned(store, tokenizer) == planned(store, config) == []


async def test_a_model_of_which_a_shard_was_replaced_is_followed_by_the_new_one(
    store, readers, directory, model, autojump_clock
):
    """Mutation: an old model that stays keeps its heads wanted for ever, since its users are counted elsewhere."""
    config, kept = directory.files[0], model[1]
    reader = readers.open(kept, kept.key)
    readers.close(readers.open(config, config.key))
    await trio.sleep(100)
    assert planned(store, model[0]) == [Extent(0, BLOCK)]
    replaced = replace(model[0], etag="new")
    store.heads[replaced] = store.heads[model[0]]
    directory.files[directory.files.index(model[0])] = replaced
    readers.close(readers.open(config, config.key))
    await wait_all_tasks_blocked()
    assert planned(store, replaced) == [Extent(0, BLOCK)]
    assert planned(store, model[0]) == []
    readers.close(reader)
    await trio.sleep(100)
    assert not any(planned(store, obj) for obj in (replaced, *model))


async def test_models_that_have_shards_in_common_are_forgotten_one_by_one(
    store, readers, directory, model, autojump_clock, monkeypatch, caplog
):
    monkeypatch.setattr(model_module, "MAX_MODELS", 2)
    first, kept = model[:2]
    replaced = replace(first, etag="new")
    store.heads[replaced] = store.heads[first]
    others = [store.put_tensors(f"{name}/{SHARDS[0]}", 16 * MIB) for name in "ab"]
    for opened, files in ((first, model), (replaced, [replaced, kept])):
        directory.files = list(files)
        readers.close(readers.open(opened, opened.key))
        await trio.sleep(100)
    readers.close(readers.open(first, first.key))  # the one that was read last stays
    for obj in others:
        directory.files = [obj]
        readers.close(readers.open(obj, obj.key))
        await trio.sleep(100)
    assert readers.statistics().models <= 2
    assert not caplog.records


async def test_a_model_of_a_thousand_shards_makes_no_reader_for_each(store, readers, directory):
    keys = [f"m/x-{number:05}-of-01000.safetensors" for number in range(1, 1001)]
    directory.files = [store.put_tensors(key, 16 * MIB) for key in keys]
    first = readers.open(directory.files[0], keys[0])
    await wait_all_tasks_blocked()
    await read_on(first, 0, 16 * MIB)
    assert readers.statistics().kept <= 40


async def keys_after(readers: Readers, obj: ObjectId) -> list[str]:
    return [following.key for following in await readers.following(obj)]


@pytest.mark.parametrize("numbered", [True, False])
async def test_what_follows_a_shard_is_the_indexs_word_else_the_numbers(store, readers, directory, numbered):
    """Also where nobody reads any of them. An index names them as it likes, and numbers do not sort as text."""
    names = [f"model-{n}-of-11.safetensors" for n in range(1, 12)] if numbered else ["c.safetensors", "d.safetensors"]
    shards = [store.put_tensors(f"m/{name}", 16 * MIB) for name in names]
    directory.files = [store.put("m/config.json", 600, b"{}"), *reversed(shards)]
    if not numbered:
        index = json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate(names)}}).encode()
        directory.files.append(store.put("m/model.safetensors.index.json", len(index), index))
        directory.files.append(store.put_tensors("m/d-lora.safetensors", 16 * MIB))
    for position, shard in enumerate(shards):
        assert await readers.following(shard) == tuple(shards[position + 1 :])
    assert [plan for plan in store.plans.values() if plan] == [], "and nothing is fetched of them"


async def test_who_asks_what_follows_asks_the_directory_once_for_all_shards(store, readers, directory, model):
    for number, shard in enumerate(model):
        assert await keys_after(readers, shard) == SHARDS[number + 1 :]
    assert directory.asked == [(SHARDS[0], "")]
    assert [obj.key for obj, *_ in store.reads] == ["m/model.safetensors.index.json"]


async def test_what_follows_is_looked_up_again_after_a_while(readers, directory, model, autojump_clock):
    """A shard that was uploaded anew is another version."""
    assert await keys_after(readers, model[0]) == SHARDS[1:]
    directory.files.remove(model[-1])
    assert await keys_after(readers, model[0]) == SHARDS[1:]
    await trio.sleep(LEAVE_S + 1)
    assert await keys_after(readers, model[0]) == SHARDS[1:-1]


async def test_nothing_follows_a_single_file_or_one_that_belongs_to_no_checkpoint(store, readers, directory):
    single = store.put_tensors("s/model.safetensors", 16 * MIB)
    adapters = [store.put_tensors(f"l/lora_{n}.safetensors", 16 * MIB) for n in range(3)]
    directory.files = [store.put("s/config.json", 600, b"{}"), single, *adapters]
    for obj in (single, *adapters) * 2:
        assert await keys_after(readers, obj) == []
    assert len(directory.asked) == 4, "and that is remembered too"


async def test_nothing_follows_what_lies_beside_the_shards(store, readers, directory, model):
    adapter = store.put_tensors("m/lora_0.safetensors", 16 * MIB)
    directory.files.append(adapter)
    for obj in (directory.files[0], adapter):
        assert await keys_after(readers, obj) == []
    assert await keys_after(readers, model[0]) == SHARDS[1:], "of which it is known by then"


async def test_nothing_follows_where_nobody_can_tell(store, directory, model):
    assert await keys_after(Readers(store, ReaderConfig()), model[0]) == []
    for prefetch in ("file", "off"):
        readers = Readers(store, ReaderConfig(prefetch=prefetch), siblings=directory.siblings)
        assert await keys_after(readers, model[0]) == []
    assert (directory.asked, store.reads) == ([], [])


@pytest.mark.parametrize("fails", ["the listing", "the index"])
async def test_a_store_that_fails_is_asked_again_what_follows(store, readers, directory, model, fails):
    """Mutation: remembering that nothing follows while nobody could tell."""
    error = ObjectUnavailableError("gone", bucket="bucket", key="m")
    if fails == "the listing":
        directory.error = error
    else:
        store.errors[Priority.PREFETCH] = error
    assert await keys_after(readers, model[0]) == []
    directory.error = None
    store.errors.clear()
    assert await keys_after(readers, model[0]) == SHARDS[1:]


async def test_where_there_is_no_thread_for_a_long_index_it_is_asked_again_what_follows(
    store, readers, directory, model, caplog
):
    """And the daemon goes on. Mutation: with trio's own function it is a RuntimeError, which nobody expects."""
    names = [key.removeprefix("m/") for key in SHARDS]
    index = json.dumps({"weight_map": {f"layers.{n}.weight": names[n % 4] for n in range(4000)}}).encode()
    directory.files[1] = store.put("m/model.safetensors.index.json", len(index), index)
    with no_threads():
        assert await keys_after(readers, model[0]) == []
        readers.open(directory.files[0], "m/config.json")
        await wait_all_tasks_blocked()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert await keys_after(readers, model[0]) == SHARDS[1:]


async def test_files_whose_checkpoint_is_remembered_are_bounded(store, readers, directory, monkeypatch):
    monkeypatch.setattr(model_module, "MAX_SERIES", 3)
    singles = [store.put_tensors(f"{n}/model.safetensors", 16 * MIB) for n in range(5)]
    directory.files = list(singles)
    for obj in (*singles, *reversed(singles)):
        await readers.following(obj)
    assert [key for key, _ in directory.asked[5:]] == ["1/model.safetensors", "0/model.safetensors"]


async def test_a_data_set_of_small_files_is_not_fetched_for_a_configuration_beside_it(store, readers, directory):
    """Each costs the event loop a reader and a plan at once: 4000 of them a third of a second."""
    data = [store.put(f"m/d{number:04}.json", 100) for number in range(4000)]
    config = store.put("m/config.json", 600, b"{}")
    directory.files = [config, *data]
    readers.open(config, config.key)
    await wait_all_tasks_blocked()
    assert planned(store, config) == [Extent(0, 600)]
    assert sum(bool(store.plans[obj]) for obj in directory.files) == MAX_SMALL_FILES
