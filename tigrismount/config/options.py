"""The one table of options: each flag, environment variable, TOML key and ``-o`` name comes from here.

An option is declared once, with its parser and the text of its default. The command line derives its flags from the
table, ``merge`` the names under which a value may be set, ``validate`` the check of the value. Nothing here reads
anything: parsers are pure and raise ``ValueError`` with what they expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.config.kinds import (
    one_of,
    parse_block_bytes,
    parse_cache_directories,
    parse_deadline_s,
    parse_endpoint,
    parse_fetch_processes,
    parse_free_floor,
    parse_kernel_read_ahead,
    parse_listen_address,
    parse_mode,
    parse_path,
    parse_switch,
    parse_text,
    size_from,
    whole_number,
)
from tigrismount.config.units import MIB, parse_seconds, parse_size_bytes, parse_size_or_share
from tigrismount.objects.selectors import parse_selector

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One thing that can be configured."""

    name: str
    """As on the command line, without the dashes in front."""
    parse: Callable[[object], object]
    """Turns text, or a TOML value, into the value; raises ``ValueError`` with what was expected."""
    default: str
    """What holds when nobody says otherwise, for ``--help``."""
    help: str
    """One sentence, for ``--help``."""
    metavar: str = "TEXT"
    """Stands for the value in ``--help``."""
    is_switch: bool = False
    """On or off, without a value on the command line."""
    is_repeatable: bool = False
    """Given several times, all values count; the parser takes a list of them."""
    variables: tuple[str, ...] = ()
    """The ecosystem's own environment variables, first one set wins; weaker than ours and than the file."""

    @property
    def key(self) -> str:
        """The name in Python and in TOML: with ``_``."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Our environment variable."""
        return f"TIGRISMOUNT_{self.key.upper()}"


OPTIONS: tuple[Option, ...] = (
    Option(
        name="endpoint-url",
        parse=parse_endpoint,
        default="https://t3.storage.dev",
        help="Base URL of the S3 API.",
        metavar="URL",
        variables=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "TIGRIS_STORAGE_ENDPOINT"),
    ),
    Option(
        name="region",
        parse=parse_text,
        default="auto; on Amazon's hosts AWS_REGION",
        help="Region that requests are signed for.",
        metavar="NAME",
    ),
    Option(
        name="profile",
        parse=parse_text,
        default="none",
        help="Profile of the AWS configuration files to take credentials from.",
        metavar="NAME",
        variables=("AWS_PROFILE",),
    ),
    Option(
        name="no-sign-request",
        parse=parse_switch,
        default="off",
        help="Send anonymous requests, for public buckets.",
        is_switch=True,
    ),
    Option(
        name="addressing",
        parse=one_of("auto", "virtual", "path"),
        default="auto",
        help="Where the bucket goes in a URL; auto is virtual for Tigris and AWS, path elsewhere.",
        metavar="auto|virtual|path",
    ),
    Option(
        name="ca-bundle",
        parse=parse_path,
        default="the system's",
        help="PEM file of certificate authorities to trust.",
        metavar="FILE",
        variables=("AWS_CA_BUNDLE",),
    ),
    Option(
        name="request-timeout",
        parse=parse_deadline_s,
        default="300s",
        help="How long a read keeps trying before it fails.",
        metavar="TIME",
    ),
    Option(
        name="max-retries",
        parse=whole_number(0, 1_000_000),
        default="1000",
        help="Retries of one request within its timeout.",
        metavar="N",
    ),
    Option(
        name="all-buckets",
        parse=parse_switch,
        default="off",
        help="Show each bucket that the key can list as a directory, instead of a SOURCE.",
        is_switch=True,
    ),
    Option(
        name="store-id",
        parse=parse_text,
        default="tigris, or the endpoint",
        help="Name of the store in inode numbers and cache keys; set it where a proxy stands before the store.",
        metavar="NAME",
    ),
    Option(
        name="requester-pays",
        parse=parse_switch,
        default="off",
        help="Accept the cost of requests to requester-pays buckets.",
        is_switch=True,
    ),
    Option(
        name="cache-dir",
        parse=parse_cache_directories,
        default="/var/cache/tigrismount for root, else ~/.cache/tigrismount",
        help="Directory of the disk cache, best on NVMe; repeat it for several drives; off for none.",
        metavar="DIR|off",
        is_repeatable=True,
    ),
    Option(
        name="cache-size",
        parse=parse_size_or_share,
        default="80%",
        help="Most bytes the disk cache keeps, all directories together; a percentage is of each one's filesystem.",
        metavar="SIZE|PERCENT",
    ),
    Option(
        name="cache-free",
        parse=parse_free_floor,
        default="5%",
        help="Share of the cache's filesystem that is always left free.",
        metavar="PERCENT",
    ),
    Option(
        name="block-size",
        parse=parse_block_bytes,
        default="8MiB",
        help="Unit of cache and of requests; a power of two from 1MiB to 64MiB.",
        metavar="SIZE",
    ),
    Option(
        name="memory-limit",
        parse=size_from(32 * MIB, "32MiB"),
        default="25% of the memory (of the cgroup where there is one), 256MiB to 2GiB; less below 1GiB of memory",
        help="Hard limit of all read buffers.",
        metavar="SIZE",
    ),
    Option(
        name="concurrency",
        parse=whole_number(1, 512),
        default="256, as many as three quarters of the memory limit hold",
        help="Most GETs in flight; how many are worth it is found out. Reads that wait may add an eighth.",
        metavar="N",
    ),
    Option(
        name="fetch-processes",
        parse=parse_fetch_processes,
        default="auto",
        help="Processes that receive from the store besides the mount's own; auto: up to 4 from 4 cores on.",
        metavar="auto|N",
    ),
    Option(
        name="bandwidth",
        parse=size_from(MIB, "1MiB"),
        default="none",
        help="Most bytes a second from the store, so that others have the rest of the network.",
        metavar="SIZE",
    ),
    Option(
        name="read-ahead",
        parse=parse_size_bytes,
        default="60% of the memory limit, at most 512MiB",
        help="Most bytes fetched ahead of a reader.",
        metavar="SIZE",
    ),
    Option(
        name="prefetch",
        parse=one_of("auto", "file", "off"),
        default="auto",
        help="auto plans from tensor headers and access patterns, file from access patterns, off fetches what is read.",
        metavar="auto|file|off",
    ),
    Option(
        name="push",
        parse=one_of("auto", "on", "off"),
        default="auto",
        help="Give the kernel pages before it asks; auto: files that memory holds, unless its read-ahead is raised.",
        metavar="auto|on|off",
    ),
    Option(
        name="passthrough",
        parse=one_of("auto", "on", "off"),
        default="off",
        help="Let the kernel read cached files by itself, as fast as the drive; auto: but for what it has in memory.",
        metavar="auto|on|off",
    ),
    Option(
        name="kernel-read-ahead",
        parse=parse_kernel_read_ahead,
        default="auto (4096)",
        help="The kernel's read-ahead on this mount, set where permitted; 0 leaves it alone.",
        metavar="auto|KIB",
    ),
    Option(
        name="verify",
        parse=one_of("always", "once", "off"),
        default="once",
        help="When a cached block is checked: always, once after each start, or off where it was closed cleanly.",
        metavar="always|once|off",
    ),
    Option(
        name="metadata-ttl",
        parse=parse_seconds,
        default="60s",
        help="How long names and listings are trusted; 0 and inf are allowed.",
        metavar="TIME",
    ),
    Option(
        name="negative-ttl",
        parse=parse_seconds,
        default="5s",
        help="How long a missing name stays missing.",
        metavar="TIME",
    ),
    Option(
        name="snapshot",
        parse=parse_selector,
        default="none: the bucket as it is",
        help="A Tigris snapshot in place of the bucket: nothing in it changes, so a mount trusts its names for ever.",
        metavar="VERSION|NAME|latest|now|TIME",
    ),
    Option(
        name="consistent",
        parse=parse_switch,
        default="off",
        help="Ask Tigris for consistent answers about names, wherever the bucket lies; slower from far away.",
        is_switch=True,
    ),
    Option(
        name="tigris-prefetch",
        parse=parse_switch,
        default="off",
        help="Let Tigris move the data of listed directories to this region, and send small files with the listing.",
        is_switch=True,
    ),
    Option(
        name="uid", parse=whole_number(0, 2**32 - 2), default="the caller's", help="Owner of everything.", metavar="UID"
    ),
    Option(
        name="gid", parse=whole_number(0, 2**32 - 2), default="the caller's", help="Group of everything.", metavar="GID"
    ),
    Option(name="file-mode", parse=parse_mode, default="0444", help="Permission bits of files.", metavar="OCTAL"),
    Option(name="dir-mode", parse=parse_mode, default="0555", help="Permission bits of directories.", metavar="OCTAL"),
    Option(
        name="allow-other",
        parse=parse_switch,
        default="on for root, else off",
        help="Let other users in.",
        is_switch=True,
    ),
    Option(
        name="metrics-addr",
        parse=parse_listen_address,
        default="none",
        help="Serve Prometheus metrics, /healthz and /readyz here; a port alone is on the loopback address.",
        metavar="[HOST:]PORT",
    ),
    Option(
        name="log-level",
        parse=one_of("debug", "info", "warning", "error"),
        default="info",
        help="Least severe messages that are logged.",
        metavar="debug|info|warning|error",
    ),
    Option(
        name="log-format",
        parse=one_of("text", "json"),
        default="text",
        help="Shape of log lines.",
        metavar="text|json",
    ),
    Option(
        name="log-file",
        parse=parse_path,
        default="the system log; standard error with -f",
        help="Where messages go; opened again on SIGHUP.",
        metavar="FILE",
    ),
)
"""In the order of ``--help``."""

BY_KEY: dict[str, Option] = {option.key: option for option in OPTIONS}
"""The table by Python and TOML name."""
