"""``tigrismount warm``: fill the disk cache before somebody waits for it.

Paths go to the daemon of their mount. A source goes to a mount of it, when one runs with the cache that would be used,
because its readers then share every flight; else the command fetches by itself, which needs no mount, no FUSE and no
privileges. Either way the cache is the same, and what is in it is not fetched again.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from tigrismount.cli.completing import places, values
from tigrismount.cli.connection import load_without_mount
from tigrismount.cli.failure import FAILED, NOT_FOUND, CommandFailure, print_error, print_note
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.mounted import collect_mounts
from tigrismount.cli.place import is_source, locate
from tigrismount.cli.running import run_engine
from tigrismount.cli.warmbar import shown_progress
from tigrismount.config.source import parse_source, source_from_environment
from tigrismount.config.units import format_size, parse_seconds
from tigrismount.control.client import StaleSocketError, stream
from tigrismount.control.paths import find_socket, runtime_directories
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.objects.selectors import selected_version

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.warm.report import WarmReport
    from tigrismount.warm.selection import Target

_SILENCE_S = 60.0  # a daemon tells progress four times a second; one that is taken over is silent for some seconds
_RECONNECTS = 10  # a takeover is over in a second or two; a daemon that dies ten times will not finish
_RECONNECT_PAUSE_S = 1.0
_MOST_SPREAD_S = 86_400.0  # above what anybody waits; 'inf' is a time elsewhere

_SAME = ("endpoint_url", "store_id", "cache_dir", "snapshot", "profile", "no_sign_request", "requester_pays")
"""Options in which a mount must agree, so that its daemon does what this process would."""

_OPTIONS = (
    *("snapshot", "store_id", "cache_dir", "cache_size", "cache_free", "block_size", "memory_limit", "bandwidth"),
    "fetch_processes",
    *CONNECTION,
)


class _Run(NamedTuple):
    """What one daemon, or this process, is to warm."""

    where: str
    """The mountpoint, or the source."""
    work: Callable[[Callable[[dict[str, Any]], None]], WarmReport]
    """Does it and shows its progress."""


@click.command(epilog="Example: tigrismount warm s3://my-bucket/models/llama --cache-dir /nvme/tigrismount")
@click.argument("names", nargs=-1, metavar="[PATH|SOURCE]...", shell_complete=places)
@click.option(
    "--from-file",
    metavar="FILE",
    shell_complete=values,
    help="Also take names from FILE, one a line; - is standard input.",
)
@click.option("--jobs", type=click.IntRange(1, 512), metavar="N", help="Most requests at once. [as 'mount' would]")
@click.option(
    "--check", is_flag=True, help="Fetch nothing: read back what is cached and compare it with its checksums."
)
@click.option("--spread", metavar="TIME", default="0", help="Wait a random time up to TIME first. [0]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(_OPTIONS)
def warm(
    names: tuple[str, ...],
    from_file: str | None,
    jobs: int | None,
    check: bool,
    spread: str,
    as_json: bool,
    **given: object,
) -> int:
    """Bring everything that is named into the disk cache, and return when it is there.

    A SOURCE has its scheme or 'bucket:', and is a prefix, a key, a pattern with *, ** or ?, or the index of a sharded
    model (*.safetensors.index.json: its shards and the small files beside it). A PATH lies under a mount. Without any,
    the environment names the source as for 'mount'.

    What is cached is skipped, so an interrupted run goes on where it stopped, and a run over what has not changed asks
    the store for one page of a listing per 1000 keys. Exits 0 when all of it is cached, 1 when something is not, with
    a line for each, and 3 when nothing of that name is there.
    """
    wanted = [*names, *(_names_in(from_file) if from_file else ())]
    if not wanted and not from_file:
        wanted = [source_from_environment(os.environ)[0].url]
    # All names are understood before anything is done.
    runs = [*_path_runs(wanted, jobs, check), *_source_runs(wanted, jobs, check, given)]
    _wait(spread)
    started_s = time.monotonic()
    with shown_progress() as tell:
        reports = [(run.where, _warm_one(run, tell)) for run in runs]
    return _tell(reports, time.monotonic() - started_s, check=check, as_json=as_json)


def _names_in(path: str) -> list[str]:
    try:
        with click.open_file(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
    except OSError as exc:
        raise CommandFailure(f"{path}: cannot be read: {exc.strerror}", NOT_FOUND) from exc


def delay_s(spread: str, draw: float) -> float:
    """Return how long one machine waits, so that those that were started together do not ask together.

    Args:
        spread: The longest wait, as given on the command line.
        draw: Random number in ``[0, 1)``.

    Raises:
        ValueError: *spread* is no time, or one that nobody waits for.
    """
    longest_s = parse_seconds(spread)
    if longest_s > _MOST_SPREAD_S:
        raise ValueError("expected at most 1d")
    return draw * longest_s


def _wait(spread: str) -> None:
    try:
        wait_s = delay_s(spread, random.random())  # noqa: S311 -- no secret
    except ValueError as exc:
        raise click.UsageError(f"--spread {spread!r}: {exc}", click.get_current_context()) from exc
    if wait_s:
        print_note(f"waiting {wait_s:.1f} s of --spread {spread}")
        time.sleep(wait_s)


# -- through a mount -------------------------------------------------------------------------------------------------


def _path_runs(names: Sequence[str], jobs: int | None, check: bool) -> list[_Run]:
    mounts = read_mounts()
    below: dict[str, list[str]] = {}
    for name in names:
        if not is_source(name):
            try:
                mountpoint, path = locate(name, mounts)
            except CommandFailure as exc:
                if name.startswith(("/", ".", "~")):
                    raise
                hint = f"{name}: is not under a mount, and a source has its scheme: s3://{name}?"
                raise CommandFailure(hint, NOT_FOUND) from exc
            below.setdefault(mountpoint, []).append(path)
    return [
        _Run(mountpoint, partial(_through_daemon, mountpoint, paths=paths, jobs=jobs, check=check))
        for mountpoint, paths in below.items()
    ]


def _through_daemon(mountpoint: str, tell: Callable[[dict[str, Any]], None], **request: Any) -> WarmReport:
    """Let the daemon of a mount do it; one that is taken over meanwhile is asked again, and goes on."""
    from tigrismount.warm.report import WarmReport

    path = find_socket(os.environ, uid=os.geteuid(), mountpoint=mountpoint)
    for _ in range(_RECONNECTS):
        try:
            for line in stream(path, "warm", timeout_s=_SILENCE_S, **request):
                if "report" in line:
                    return WarmReport.from_json(line["report"])
                tell(line["progress"])
        except StaleSocketError:
            if all(entry.mountpoint != mountpoint for entry in read_mounts()):
                break
        time.sleep(_RECONNECT_PAUSE_S)
    raise CommandFailure(f"{mountpoint}: its daemon is gone, or another user's", NOT_FOUND)


# -- by source -------------------------------------------------------------------------------------------------------


def _source_runs(names: Sequence[str], jobs: int | None, check: bool, given: dict[str, object]) -> list[_Run]:
    from tigrismount.warm.selection import Target

    targets: dict[str, list[Target]] = {}
    for name in names:
        if is_source(name):
            source = parse_source(name)
            prefix = source.prefix if name.endswith("/") else source.prefix.removesuffix("/")
            targets.setdefault(source.bucket, []).append(Target(source.bucket, prefix))
    if not targets:
        return []
    configs = {bucket: load_without_mount(f"s3://{bucket}", given) for bucket in targets}
    mounts = collect_mounts(runtime_directories(os.environ, uid=os.geteuid()), read_mounts())
    return [_source_run(configs[bucket], mounts, targets[bucket], jobs, check) for bucket in targets]


def _source_run(
    config: MountConfig, mounts: Sequence[dict[str, Any]], targets: Sequence[Target], jobs: int | None, check: bool
) -> _Run:
    """Return the run through a mount that has this source, and the cache that is meant; else one of our own."""
    for mount in mounts:
        if _serves(mount, config, targets):
            pairs = [list(target) for target in targets]
            work = partial(_through_daemon, mount["mountpoint"], targets=pairs, jobs=jobs, check=check)
            return _Run(mount["mountpoint"], work)
    return _Run(config.source, partial(_by_ourselves, config, targets, jobs, check))


def _serves(mount: dict[str, Any], config: MountConfig, targets: Sequence[Target]) -> bool:
    """Tell whether a mount's daemon would do for *targets* just what this process would."""
    if mount.get("state") not in ("ok", "degraded") or not config.disk_caches:
        return False
    theirs, ours = mount.get("config", {}), config.report()
    if any(theirs.get(key, {}).get("value") != ours[key]["value"] for key in _SAME):
        return False
    if config.s3.snapshot is not None and selected_version(config.s3.snapshot) is None:
        return False  # to a mount 'latest' is what it was when the mount was made, and so is what a name stands for
    source = str(mount.get("source", ""))
    return source == "s3://" or all(f"{target}/".startswith(f"{source}/") for target in targets)


def _by_ourselves(
    config: MountConfig,
    targets: Sequence[Target],
    jobs: int | None,
    check: bool,
    tell: Callable[[dict[str, Any]], None],
) -> WarmReport:
    """Fetch in this process."""
    gc.disable()  # what start-up makes stays: a sixth of its time would go into walking it
    from dataclasses import asdict

    from tigrismount.warm.engine import most_held, most_jobs, warming_engine, with_jobs
    from tigrismount.warm.follow import follow
    from tigrismount.warm.warmer import Warmer

    config = with_jobs(config, jobs)

    async def tell_it(progress: Any) -> None:
        tell(asdict(progress))

    async def work() -> WarmReport:
        async with warming_engine(config) as engine:
            gc.freeze()
            gc.enable()
            job = Warmer(
                engine.client,
                engine.cache,
                engine.store,
                verifier=engine.verifier,
                jobs=most_jobs(config, jobs),
                most_held=most_held(config),
            )
            return await follow(job, targets, tell_it, check=check)

    try:
        return run_engine(work)
    finally:
        gc.enable()


# -- how it went -----------------------------------------------------------------------------------------------------


def _warm_one(run: _Run, tell: Callable[[dict[str, Any]], None]) -> WarmReport:
    try:
        return run.work(tell)
    except KeyboardInterrupt:
        print_note("what was fetched is kept: the same command goes on from here")
        raise
    except MountError as exc:
        raise CommandFailure(f"{run.where}: {exc}") from exc


def _tell(reports: Sequence[tuple[str, WarmReport]], seconds: float, *, check: bool, as_json: bool) -> int:
    failures = [failure for _, report in reports for failure in report.failures]
    totals = {
        name: sum(getattr(report, name) for _, report in reports)
        for name in ("objects", "bytes", "cached_bytes", "fetched_bytes", "checked_bytes")
    }
    for failure in failures:
        print_error(f"{failure.what}: {failure.reason}")
    if as_json:
        rows = [{"where": where, **report.to_json()} for where, report in reports]
        click.echo(json.dumps({"ok": not failures, **totals, "seconds": round(seconds, 3), "runs": rows}, indent=2))
    else:
        click.echo(_summary(totals, len(failures), seconds, check=check))
        sys.stdout.flush()
    if not failures:
        return 0
    return NOT_FOUND if all(failure.not_found for failure in failures) and not totals["objects"] else FAILED


def _summary(totals: dict[str, int], failures: int, seconds: float, *, check: bool) -> str:
    amount = f"{totals['objects']} {'file' if totals['objects'] == 1 else 'files'}, {format_size(totals['bytes'])}"
    verdict = f"{failures} failed" if failures else "all cached and right" if check else "all cached"
    if check:
        return f"{amount}: {verdict}; {format_size(totals['checked_bytes'])} read back in {seconds:.1f} s"
    rate = f" in {seconds:.1f} s ({format_size(int(totals['fetched_bytes'] / seconds))}/s)" if seconds else ""
    fetched = f"{format_size(totals['fetched_bytes'])} fetched{rate}" if totals["fetched_bytes"] else "nothing fetched"
    before = f"{format_size(totals['cached_bytes'])} were there before, " if totals["cached_bytes"] else ""
    return f"{amount}: {verdict}; {before}{fetched}"
