"""Models: which files belong together, and what is fetched of them before anybody asks.

A load begins with a small file (``config.json``, an index) or with a shard. From then on the files beside it are
known: the small ones are fetched whole, and the heads of all shards, at the lowest priority that is not spare. Which
shard follows which is the index's word, else the numbers' in the names. A directory that was only listed is not being
loaded: nothing is fetched for ``ls``.

``core.modelplan`` decides what spills from the shard being read into the next ones; readers carry it out, so that
each file has one plan, whoever wants something of it. When nobody has a file of the model open any more, what spilled
is withdrawn after a moment (loaders close a shard before they open the next one), everything else after a minute.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount import threads
from tigrismount.core.modelplan import ModelPlan
from tigrismount.core.types import Priority
from tigrismount.errors import FormatError, TigrisMountError
from tigrismount.formats.registry import format_of
from tigrismount.formats.shards import is_index, is_pipeline, natural_order, parse_index, parse_pipeline
from tigrismount.reader.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tigrismount.blocks.base import BlockSource
    from tigrismount.core.types import ObjectId
    from tigrismount.reader.file_reader import FileReader
    from tigrismount.reader.options import ReaderConfig

    Files = Sequence[tuple[str, ObjectId]]
    Siblings = Callable[[ObjectId, str], Awaitable[Files]]
    """From a version and a path below its directory to the files there: their names and versions."""

log = logging.getLogger(__name__)

CONFIG_NAMES = frozenset({"config.json", "params.json", "adapter_config.json"})
"""Files that loaders read before anything else."""
SMALL_SUFFIXES = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".jsonl")
"""Names of files that every loader reads whole: configuration, tokenizer, templates, indexes."""
MAX_SMALL_BYTES = 32 << 20
"""Largest of them; tokenizers reach 20 MB."""
MAX_SMALL_TOTAL_BYTES = 64 << 20
"""Most bytes of them in one directory; a data set of JSON files is no model."""
MAX_SMALL_FILES = 128
"""The same in files: pipelines have some twenty, and of many more no readers would be kept that remember it."""
MAX_PARSED_BYTES = 16 << 20
"""Longest index that is parsed in the daemon, about 150,000 tensors; see ``probe.MAX_PROBED_BYTES``."""
THREAD_BYTES = 64 << 10
"""Length from which parsing moves to a thread."""
MAX_MODELS = 32
"""Models remembered; diffusers pipelines have six components."""
MAX_SERIES = 4096
"""Files of which the checkpoint is remembered: that of the largest model has a few hundred."""
MAX_COMPONENTS = 16
"""Components of a pipeline that are looked at."""
PAUSE_S = 1.0
"""How long after the last close what spilled stays wanted: a loader opens its next shard within milliseconds."""
LEAVE_S = 60.0
"""How long everything else does: Python imports and GPU set-up come between the configuration and the weights."""
_NUMBERED = re.compile(r"^(.*?)-?(\d+)-of-(\d+)(\.[a-z0-9.]+)$", re.IGNORECASE)


class Model:
    """The shards of one checkpoint that somebody loads.

    Args:
        shards: Their versions, in the order in which they are read.
        plan: What of them is wanted.
    """

    def __init__(self, shards: Sequence[ObjectId], plan: ModelPlan) -> None:
        self.shards = tuple(shards)
        self.plan = plan
        self.granted = [0] * len(self.shards)
        """Bytes that the readers of the shards were told to fetch, from their starts."""
        self.users = 0
        """Shards that somebody has open."""
        self.waiting: trio.CancelScope | None = None
        """Around the wait for the model to be forgotten."""


class Models:
    """All models of one mount.

    Args:
        store: Where indexes are read.
        config: Limits of plans.
        peek: Gives the reader of a file, without opening it.
        siblings: Tells the files beside one; None where nobody can.
        nursery: Gives the nursery that background work runs in, None while there is none.
    """

    def __init__(
        self,
        store: BlockSource,
        config: ReaderConfig,
        *,
        peek: Callable[[ObjectId], FileReader],
        siblings: Siblings | None,
        nursery: Callable[[], trio.Nursery | None],
    ) -> None:
        self._store = store
        self._config = config
        self._peek = peek
        self._siblings = siblings if config.prefetch == "auto" else None
        self._nursery = nursery
        self._models: OrderedDict[Model, None] = OrderedDict()
        self._shards: dict[ObjectId, tuple[Model, int]] = {}
        self._open: set[ObjectId] = set()
        """Files that somebody has open."""
        self._series: OrderedDict[ObjectId, tuple[float, tuple[ObjectId, ...]]] = OrderedDict()
        """What was found out for :meth:`following`, and when: the shards of the checkpoint that a file belongs to."""
        self._looked: set[tuple[str, str]] = set()
        """Directories whose files were found out within the last minute, or are being."""

    @property
    def remembered(self) -> int:
        """Models in memory."""
        return len(self._models)

    def opened(self, obj: ObjectId, key: str) -> None:
        """Note that somebody opened a file that was not open."""
        self._open.add(obj)
        model, _ = self._shards.get(obj, (None, 0))
        if model is not None:
            model.users += 1
            self._wake(model)
        elif self._siblings is not None and begins_load(key):
            place = (obj.bucket, key.rpartition("/")[0])
            nursery = self._nursery()
            if nursery is not None and place not in self._looked:
                self._looked.add(place)
                nursery.start_soon(guarded, self._look_around, obj, key, place)

    def closed(self, obj: ObjectId) -> None:
        """Note that nobody has a file open any more."""
        self._open.discard(obj)
        model, _ = self._shards.get(obj, (None, 0))
        if model is not None:
            model.users -= 1
            if not model.users:
                self._leave_soon(model)

    def said(self, reader: FileReader) -> None:
        """Note that a reader's plan has changed: what spills from it may have, too."""
        model, shard = self._shards.get(reader.obj, (None, 0))
        if model is None or reader.plan is None:
            return
        model.plan.observe(shard, reader.plan.touched_bytes, reader.plan.overflow_bytes)
        self._apply(model, window_bytes=reader.plan.window_bytes)

    async def following(self, obj: ObjectId) -> Sequence[ObjectId]:
        """Return the shards that are read after *obj*, in order, whether anybody reads any; none if nobody can tell."""
        if self._siblings is None:
            return ()
        looked_s, shards = self._series.get(obj, (-math.inf, ()))
        if trio.current_time() - looked_s > LEAVE_S:
            try:
                files = dict(await self._siblings(obj, ""))
                shards = tuple(await self._find_shards(files, obj.key.rpartition("/")[2]))
            except (TigrisMountError, threads.NoThreadError) as exc:
                log.info("what follows %s is not known: %s", obj.key, exc)
                return ()
            self._series.update(dict.fromkeys((obj, *shards), (trio.current_time(), shards)))
            while len(self._series) > MAX_SERIES:
                self._series.popitem(last=False)
        return shards[shards.index(obj) + 1 :] if obj in shards else ()

    # ------------------------------------------------------------------ finding out

    async def _look_around(self, obj: ObjectId, key: str, place: tuple[str, str]) -> None:
        assert self._siblings is not None
        small: list[ObjectId] = []
        try:
            files = await self._siblings(obj, "")
            await self._begin(files, key.rpartition("/")[2], small)
            if is_pipeline(key):
                for component in (await self._parse(parse_pipeline, obj))[:MAX_COMPONENTS]:
                    await self._begin(await self._siblings(obj, component), "", small)
        except (TigrisMountError, threads.NoThreadError) as exc:
            # Bad bytes, no access, a directory that is not there: the reads will say it.
            log.info("no plan for the model around %s: %s", key, exc)
        await trio.sleep(LEAVE_S)
        self._looked.discard(place)
        for taken_back in small:  # what is planned is protected in memory
            self._peek(taken_back).grant(0, Priority.LATER)

    async def _begin(self, files: Files, opened: str, small: list[ObjectId]) -> None:
        """Fetch what every loader of these files reads first, and plan their shards; add the former to *small*."""
        left_bytes, left = MAX_SMALL_TOTAL_BYTES, MAX_SMALL_FILES
        for name, obj in files:
            is_small = 0 < obj.size_bytes <= min(MAX_SMALL_BYTES, left_bytes)
            if left and is_small and name.lower().endswith(SMALL_SUFFIXES):
                left_bytes, left = left_bytes - obj.size_bytes, left - 1
                small.append(obj)
                self._peek(obj).grant(obj.size_bytes, Priority.PREFETCH)
        shards = await self._find_shards(dict(files), opened)
        if shards and shards[0] not in self._shards:
            self._remember(shards)

    async def _find_shards(self, files: Mapping[str, ObjectId], opened: str) -> list[ObjectId]:
        """Return the shards of the checkpoint that *opened* belongs to, else of the one that loaders prefer."""
        for name in sorted(filter(is_index, files), key=lambda name: (".safetensors." not in name, name)):
            try:
                names = await self._parse(parse_index, files[name])
            except FormatError as exc:
                log.warning("no plan by the index %s: %s", files[name].key, exc)
                continue
            shards = [files[shard] for shard in names if shard in files]
            if shards and (opened in names or not format_of(opened)):
                return shards
        return [files[name] for name in _numbered(files, opened)]

    async def _parse(self, parse: Callable[[bytes], tuple[str, ...]], obj: ObjectId) -> tuple[str, ...]:
        """Return what *parse* makes of the whole of *obj*; what is long is parsed in a thread."""
        if obj.size_bytes > MAX_PARSED_BYTES:
            raise FormatError(f"{obj.size_bytes} bytes are above the {MAX_PARSED_BYTES} we parse")
        data = bytes(await self._store.read(obj, 0, obj.size_bytes, Priority.PREFETCH))
        if len(data) <= THREAD_BYTES:
            return parse(data)
        return await threads.run_sync(partial(parse, data))

    def _remember(self, shards: Sequence[ObjectId]) -> None:
        plan = ModelPlan(
            [obj.size_bytes for obj in shards],
            block_bytes=self._config.block_bytes,
            heads_bytes=self._config.read_ahead_bytes // 2,
            budget_bytes=self._config.read_ahead_bytes // 2,
        )
        model = Model(shards, plan)
        # One that has shards in common is an older state of it: whoever reads those is counted once.
        for older in {self._shards[obj][0] for obj in shards if obj in self._shards}:
            del self._models[older]
            self._forget(older)
        self._models[model] = None
        self._shards.update((obj, (model, shard)) for shard, obj in enumerate(shards))
        while len(self._models) > MAX_MODELS:
            self._forget(self._models.popitem(last=False)[0])
        model.users = len(self._open.intersection(shards))
        self._wake(model)
        if not model.users:
            self._leave_soon(model)

    def _forget(self, model: Model) -> None:
        model.plan.leave()
        self._apply(model)
        for obj in model.shards:
            if self._shards[obj][0] is model:
                del self._shards[obj]

    # ------------------------------------------------------------------ carrying out

    def _apply(self, model: Model, *, window_bytes: int = 0) -> None:
        """Tell the readers of all shards what the model wants of them."""
        read_bytes = model.plan.read_bytes
        for shard, (spill_bytes, head_bytes) in enumerate(zip(model.plan.spills(), model.plan.heads(), strict=True)):
            wanted_bytes = max(spill_bytes, head_bytes)
            if wanted_bytes == model.granted[shard]:
                continue
            model.granted[shard] = wanted_bytes
            reader = self._peek(model.shards[shard])
            if window_bytes and spill_bytes:
                reader.expect(window_bytes, read_bytes)
            reader.grant(wanted_bytes, Priority.LATER if spill_bytes > head_bytes else Priority.PREFETCH)

    def _wake(self, model: Model) -> None:
        self._models.move_to_end(model)
        if model.waiting is not None:
            model.waiting.cancel()
        model.plan.open()
        self._apply(model)

    def _leave_soon(self, model: Model) -> None:
        nursery = self._nursery()
        if nursery is None:
            return
        if model.waiting is not None:
            model.waiting.cancel()
        model.waiting = trio.CancelScope()
        nursery.start_soon(guarded, self._leave, model, model.waiting)

    async def _leave(self, model: Model, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(PAUSE_S)
            model.plan.pause()
            self._apply(model)
            await trio.sleep(LEAVE_S)
            model.plan.leave()
            self._apply(model)


def begins_load(key: str) -> bool:
    """Tell whether opening a file of this name means that the model around it is being loaded."""
    name = key.rpartition("/")[2]
    return name in CONFIG_NAMES or is_index(name) or is_pipeline(name) or bool(_NUMBERED.match(name))


def _numbered(files: Mapping[str, ObjectId], opened: str) -> list[str]:
    """Return the names of shards that are numbered: the series of *opened*, else the one of safetensors files.

    Where nothing is numbered, a directory with one tensor file is a model of one shard.
    """
    series: dict[tuple[str, ...], list[str]] = {}
    tensor_files = [name for name in files if format_of(name)]
    for name in tensor_files:
        match = _NUMBERED.match(name)
        if match:
            stem, _, total, suffix = match.groups()
            series.setdefault((stem, total, suffix), []).append(name)
    mine = [names for names in series.values() if opened in names]
    safe = [names for (_, _, suffix), names in series.items() if suffix == ".safetensors"]
    chosen = mine or ([] if format_of(opened) else safe[:1])
    if chosen:
        return list(natural_order(chosen[0]))
    return tensor_files if len(tensor_files) == 1 else []
