"""``tigrismount bench``: this mount beside a plain download and the raw disk, as ratios, with advice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.completing import values
from tigrismount.cli.connection import connected, load_without_mount
from tigrismount.cli.failure import CommandFailure, print_note
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.running import ended_as_interrupted, run_engine
from tigrismount.cli.table import print_table, print_wrapped
from tigrismount.config.options import BY_KEY
from tigrismount.config.units import format_size, parse_size_bytes

if TYPE_CHECKING:
    from tigrismount.bench.sample import Sample
    from tigrismount.bench.verdict import Measured
    from tigrismount.config.model import MountConfig

_LEAST_BYTES = 64 << 20
"""Less says nothing, whatever the machine."""
_DEMO_SOURCE = "s3://bench/model"


@click.command(epilog="Example: tigrismount bench s3://my-bucket/models --plot bench.png")
@click.argument("source", required=False)
@click.option("--demo", "is_demo", is_flag=True, help="Measure with an embedded server and a generated model.")
@click.option("--size", default="2GiB", show_default=True, metavar="SIZE", help="Most bytes to fetch, in all.")
@click.option(
    "--directory",
    metavar="DIR",
    shell_complete=values,
    help="Where to work: on the disk that a cache would be on. [/var/tmp]",
)
@click.option("--plot", metavar="FILE.png", shell_complete=values, help="Also draw what had been read at each moment.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(CONNECTION)
def bench(
    source: str | None,
    is_demo: bool,
    size: str,
    directory: str | None,
    plot: str | None,
    as_json: bool,
    **given: object,
) -> int:
    """Measure a mount of SOURCE beside a plain parallel download and the cache disk.

    Reads objects through a mount of its own with an empty cache, then the same from its disk cache; downloads the same
    bytes to a file with 16 GETs at once; and reads the disk alone. Whatever is mounted stays as it is, and nothing is
    left behind. Each byte is fetched twice, and no more than --size in all.
    """
    budget_bytes = _parse_budget(size)
    work_in = directory or "/var/tmp"  # noqa: S108 -- only the parent of a directory made by mkdtemp
    if plot is not None:
        from tigrismount.cli.inspect_plot import require_matplotlib

        require_matplotlib()
        if not os.access(os.path.dirname(plot) or ".", os.W_OK):  # said before minutes of measuring
            raise CommandFailure(f"{plot}: cannot be written; name a file in a directory of yours with --plot")
    if is_demo and source is not None:
        raise click.UsageError("--demo has a source of its own: leave SOURCE out", click.get_current_context())
    config = None if is_demo else load_without_mount(source, given)
    try:
        with ended_as_interrupted():
            if config is None:
                return _run_demo(budget_bytes, work_in)
            with tempfile.TemporaryDirectory(prefix="tigrismount-bench-", dir=work_in) as work:
                sample, measured = _measure(config, given, budget_bytes, work)
    except OSError as exc:
        raise CommandFailure(f"{work_in}: cannot be used: {exc.strerror}; choose another with --directory") from exc
    _report(sample, measured, as_json=as_json)
    if plot is not None:
        from tigrismount.cli.bench_plot import draw

        draw(plot, measured)
    return 0


def _parse_budget(size: str) -> int:
    try:
        budget_bytes = parse_size_bytes(size)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--size") from exc
    if budget_bytes < _LEAST_BYTES:
        raise click.BadParameter(f"{size} says nothing; take {format_size(_LEAST_BYTES)} or more", param_hint="--size")
    return budget_bytes


def _measure(
    config: MountConfig, given: dict[str, object], budget_bytes: int, work: str
) -> tuple[Sample, list[Measured]]:
    """Measure all of it, the mount first."""
    from rich.console import Console

    from tigrismount.bench.measure import measure_download, measure_mount, measure_raw_disk
    from tigrismount.bench.sample import choose
    from tigrismount.bench.verdict import DISK, DOWNLOAD
    from tigrismount.demo.progress import Narrator
    from tigrismount.objects.firstpage import first_page

    prefix = config.vfs.prefix

    async def find() -> Sample:
        async with connected(config) as client:
            page = await first_page(client, config.vfs.bucket, prefix, delimiter="")
            return choose([info.id for info in page.objects if not info.archived], budget_bytes)

    async def download(sample: Sample, advance: Callable[[int], object]) -> Measured:
        async with connected(config) as client:
            return await measure_download(client, sample, f"{work}/download", advance)

    sample = run_engine(find)
    _check_room(work, sample.size_bytes)
    objects = "1 object" if len(sample.extents) == 1 else f"{len(sample.extents)} objects"
    print_note(f"reading {format_size(sample.size_bytes)} of {objects}, in four ways")
    narrator, memory_bytes = Narrator(Console(stderr=True)), config.blocks.memory_limit_bytes
    measured = measure_mount(sample, config.source, prefix, work, _as_flags(given), memory_bytes, narrator)
    with narrator.step(DOWNLOAD, sample.size_bytes) as advance:
        measured.append(run_engine(lambda: download(sample, advance)))
    with narrator.step(DISK):
        measured.append(measure_raw_disk(work))
    return sample, measured


def _check_room(work: str, sample_bytes: int) -> None:
    facts = os.statvfs(work)
    free_bytes, needed_bytes = facts.f_bavail * facts.f_frsize, 3 * sample_bytes
    if free_bytes < needed_bytes:
        raise CommandFailure(
            f"{os.path.dirname(work)}: {format_size(needed_bytes)} are needed and {format_size(free_bytes)} are free; "
            "choose another with --directory, or a smaller --size"
        )


def _as_flags(given: dict[str, object]) -> list[str]:
    """Return the flags that were given, for the mount's command line."""
    words = []
    for key, value in given.items():
        if isinstance(value, bool):
            name = BY_KEY[key].name
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words.append(f"--{BY_KEY[key].name}={value}")
    return words


def _report(sample: Sample, measured: list[Measured], *, as_json: bool) -> None:
    from tigrismount.bench.verdict import advice, caveats, curve, ratios, sparkline

    cores = len(os.sched_getaffinity(0))
    notes = caveats(measured, cores, is_whole=sample.is_whole)
    if as_json:
        facts: dict[str, Any] = {"bytes": sample.size_bytes, "objects": len(sample.extents)}
        facts |= {"measured": [each.to_json() for each in measured], "ratios": ratios(measured)}
        click.echo(json.dumps({**facts, "notes": notes, "advice": advice(measured, cores)}, indent=2))
        return
    curves = [curve(each) for each in measured]
    highest = max((rate for rates in curves for rate in rates), default=0.0)
    rows = [
        [each.name, f"{format_size(int(each.rate))}/s", f"{each.seconds:.2f} s", sparkline(rates, highest)]
        for each, rates in zip(measured, curves, strict=True)
    ]
    print_table(("WHAT", "RATE", "TOOK", "OVER TIME"), rows)
    names = {"cold": "cold mount / plain download", "warm": "mount from its cache / raw disk"}
    click.echo()
    for name, ratio in ratios(measured).items():
        click.echo(f"{names[name]:<32} {ratio:.2f}")
    for note in notes:
        print_wrapped(f"note: {note}", indent=2)
    print_wrapped(f"advice: {advice(measured, cores)}", indent=2)


def _run_demo(budget_bytes: int, work_in: str) -> int:
    """Start a server with a model, and run this command again with it as its only store."""
    try:
        from tigrismount.demo.embedded import EmbeddedS3
        from tigrismount.demo.model import plan_model, upload_model
    except ModuleNotFoundError as exc:
        what = f"{sys.executable} -m pip install 'tigrismount[demo]'"
        raise CommandFailure(f"--demo needs {exc.name}: {what}") from exc
    bucket, _, prefix = _DEMO_SOURCE.removeprefix("s3://").partition("/")
    with (
        tempfile.TemporaryDirectory(prefix="tigrismount-bench-", dir=work_in) as store,
        EmbeddedS3(directory=store) as server,
    ):
        client = server.client()
        client.create_bucket(Bucket=bucket)
        model = plan_model(budget_bytes // 3, shard_bytes=64 << 20)
        upload_model(client, bucket, prefix, model, lambda _bytes: None)
        again = [word for word in click.get_current_context().obj["arguments"] if word != "--demo"]
        command = [sys.executable, "-P", "-m", "tigrismount", *again, _DEMO_SOURCE]
        return _run_to_its_end(command, server.env())


def _run_to_its_end(command: list[str], environment: dict[str, str]) -> int:
    """Run a command that has a mount to take down, which takes a moment, also where it is interrupted.

    In a session of its own, so that Ctrl-C reaches it once, and from here.
    """
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
