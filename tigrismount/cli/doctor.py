"""``tigrismount doctor``: is this machine fit, is the bucket there, and how fast would it be?"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from tigrismount.cli.connection import load_without_mount
from tigrismount.cli.failure import FAILED
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.running import run_engine
from tigrismount.cli.table import print_wrapped, visible
from tigrismount.config.host import read_disk_space, read_host_facts
from tigrismount.config.source import SOURCE_VARIABLES
from tigrismount.doctor.findings import Finding, Rates, failed, summary
from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.credentials import Credentials

_NO_BUCKET = "no-bucket"
"""Stands for the bucket where none is named; never asked for."""
_VERDICT, _DETAIL = 6, 19
"""Columns before the name of a check, and before what was found."""
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


@click.command(epilog="Example: tigrismount doctor s3://my-bucket/models")
@click.argument("source", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(("cache_dir", "memory_limit", "allow_other", *CONNECTION))
def doctor(source: str | None, as_json: bool, **given: object) -> int:
    """Check what a mount needs here, and say what to do about what is missing.

    Looks at the kernel, memory and the cache's disk, at the endpoint, the key and the clock, and with SOURCE at what
    the key may do with the bucket, how far it is and how fast. Changes nothing; writes up to 256 MiB to the cache's
    disk and removes them, and fetches up to 80 MiB.
    """
    config, has_bucket = _configuration(source, given)
    report = _Report(as_json=as_json)
    run_engine(partial(_examine, config, has_bucket, report))
    line = summary(report.findings, report.rates)
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in report.findings]
        rates = {"store": int(report.rates.store) or None, "disk": int(report.rates.disk) or None}
        click.echo(json.dumps({"checks": findings, "bytes_per_second": rates, "summary": line}, indent=2))
    else:
        click.echo(f"\n{line}")
    return FAILED if failed(report.findings) else 0


class _Report:
    """Findings as they come.

    Args:
        as_json: Whether to print nothing until the end.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self.rates = Rates()
        self._as_json = as_json
        self._color = None if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else False

    def add(self, finding: Finding) -> None:
        """Take one in, and show it."""
        self.findings.append(finding)
        if self._as_json:
            return
        verdict = click.style(finding.verdict, fg=_COLOURS[finding.verdict], bold=finding.verdict == "fail")
        click.echo(f"{verdict}  ", nl=False, color=self._color)
        print_wrapped(f"{finding.check:<12} {visible(finding.detail)}", taken=_VERDICT, indent=_DETAIL)
        if finding.remedy:
            print_wrapped(f"{'':{_DETAIL}}→ {visible(finding.remedy)}", indent=_DETAIL + 2)


def _configuration(source: str | None, given: dict[str, object]) -> tuple[MountConfig, bool]:
    """Return what a mount would be configured like, and whether a bucket is named."""
    if source is None and not any(os.environ.get(variable) for variable in SOURCE_VARIABLES):
        return load_without_mount(f"s3://{_NO_BUCKET}", given), False
    return load_without_mount(source, given), True


async def _examine(config: MountConfig, has_bucket: bool, report: _Report) -> None:
    import trio

    from tigrismount.doctor.disk import check_disk
    from tigrismount.doctor.endpoint import check_endpoint
    from tigrismount.doctor.host import check_host

    for finding in check_host(config, read_host_facts(os.environ).memory_bytes):
        report.add(finding)
    for cache in config.disk_caches:
        findings, rate = await trio.to_thread.run_sync(check_disk, cache.directory, read_disk_space)
        report.rates = dataclasses.replace(report.rates, disk=report.rates.disk + rate)
        for finding in findings:
            report.add(finding)
    for finding in await trio.to_thread.run_sync(lambda: list(check_endpoint(config.s3))):
        report.add(finding)
    reachable = not any(finding.check == "endpoint" and finding.verdict == "fail" for finding in report.findings)
    credentials, finding = _credentials(config)
    report.add(finding)
    if not has_bucket:
        report.add(Finding("bucket", "skip", "none is named", f"name one, or set {SOURCE_VARIABLES[0]}"))
    elif reachable and finding.verdict != "fail":
        await _examine_bucket(config, credentials, report)


def _credentials(config: MountConfig) -> tuple[Credentials | None, Finding]:
    from tigrismount.objects.credentials import find_credentials, home_directory, read_text_file

    try:
        found = find_credentials(config.s3, os.environ, home_directory(), read_text_file)
    except ConfigError as exc:
        what, _, remedy = str(exc).rpartition(": ")
        return None, Finding("credentials", "fail", what or remedy, remedy if what else "")
    if found is None:  # it is asked with the first request, and may find none
        return None, Finding("credentials", "pass", "left to boto3's own chain")
    shown = f" ({found.access_key_id[:8]}…)" if found.access_key_id else ""
    return found, Finding("credentials", "pass", f"from {found.source}{shown}")


async def _examine_bucket(config: MountConfig, credentials: Credentials | None, report: _Report) -> None:
    import trio

    from tigrismount.doctor.store import StoreExam
    from tigrismount.objects.s3 import S3Client

    # Somebody waits at a prompt: a mount would try for longer.
    s3 = dataclasses.replace(config.s3, request_timeout_s=30.0, metadata_timeout_s=10.0, max_retries=2)
    try:
        client = await trio.to_thread.run_sync(S3Client, s3, credentials)
    except ConfigError as exc:
        report.add(Finding("credentials", "fail", str(exc)))
        return
    try:
        exam = StoreExam(client, config.vfs.bucket, config.vfs.prefix, anonymous=config.s3.no_sign_request)
        await exam.run(report.add)
        report.rates = dataclasses.replace(report.rates, store=exam.rate)
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()
