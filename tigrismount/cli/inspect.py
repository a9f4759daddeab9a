"""``tigrismount inspect``: what is in a tensor file or a model, what of it is cached, and what a load would fetch."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import click

from tigrismount.cli.completing import places, values
from tigrismount.cli.connection import connected, load_without_mount
from tigrismount.cli.failure import FAILED, NOT_FOUND, CommandFailure, print_warning
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.place import is_source
from tigrismount.cli.running import run_engine
from tigrismount.errors import FormatError

if TYPE_CHECKING:
    from tigrismount.cli.inspect_model import Inspected
    from tigrismount.cli.inspect_places import InspectedPlace


@click.command(epilog="Example: tigrismount inspect s3://my-bucket/llama --plan")
@click.argument("what", metavar="PATH|SOURCE", shell_complete=places)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plan", is_flag=True, help="Show what a load would fetch, and in which order.")
@click.option(
    "--plot",
    metavar="FILE.png",
    shell_complete=values,
    help="Draw a map of the files, and the last load of them where one is known.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(("snapshot", "store_id", "cache_dir", *CONNECTION))
def inspect(what: str, as_json: bool, plan: bool, plot: str | None, **given: object) -> int:
    """Show the tensors of a file, or the files of a model: names, dtypes, shapes, byte ranges, and what is cached.

    PATH is a safetensors, GGUF or PyTorch file, an index of shards, or the directory of a model or a pipeline, on this
    machine or under a mount. A SOURCE (s3://bucket/key, bucket:key) is read without a mount. Only headers are read.
    The flags that name a store, a snapshot or a cache are for a SOURCE.
    """
    if plot is not None:
        from tigrismount.cli.inspect_plot import require_matplotlib

        require_matplotlib()
    try:
        inspected = run_engine(partial(_inspect, what, given, plan=plan or plot is not None, plot=plot))
    except FormatError as exc:
        raise CommandFailure(f"{what}: {exc.detail}") from exc
    if not plan:
        inspected.plan = None
    if as_json:
        click.echo(json.dumps(inspected.to_json(), indent=2))
    else:
        from tigrismount.cli.inspect_text import print_inspected

        print_inspected(inspected)
    return _warn(inspected)


async def _inspect(what: str, given: dict[str, object], *, plan: bool, plot: str | None) -> Inspected:
    from tigrismount.cli.inspect_places import LocalPlace, StorePlace

    if not is_source(what):
        return await _look(LocalPlace(what), plan=plan, plot=plot)
    config = load_without_mount(what, given)
    async with connected(config) as client:
        return await _look(StorePlace(client, config), plan=plan, plot=plot)


async def _look(place: InspectedPlace, *, plan: bool, plot: str | None) -> Inspected:
    import trio

    from tigrismount.cli.inspect_model import inspect_place, load_of

    # Asked first: under a mount, looking at the files is itself a load.
    reports = await place.loads() if plot is not None else []
    inspected = await inspect_place(place)
    if not inspected.files and not inspected.missing:
        raise CommandFailure(
            f"{place.title}: holds no tensor files; name a file, or the directory of a model", NOT_FOUND
        )
    if plan:
        inspected.make_plan(await place.orders())
    if plot is not None:
        from tigrismount.cli.inspect_plot import draw

        await trio.to_thread.run_sync(draw, plot, inspected, load_of(inspected, reports))
    return inspected


def _warn(inspected: Inspected) -> int:
    """Say what is wrong with a model; return the exit status."""
    for item in inspected.files:
        if item.error:
            print_warning(f"{item.file.name}: {item.error}")
    for name in inspected.missing:
        print_warning(f"{name}: is named by the index and is not there")
    return FAILED if inspected.missing or any(item.error for item in inspected.files) else 0
