"""Makes the boto3 client: the one place that knows its settings.

Everything is said explicitly. boto3 would otherwise pick us-east-1 for Tigris, path-style addresses, ten connections,
its own retries (which do not cover bodies, and would hide a store that asks for fewer requests), and checksums that
some stores answer wrongly on ranges.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import botocore.handlers
from botocore import UNSIGNED
from botocore.config import Config

from tigrismount import __version__
from tigrismount.errors import ConfigError
from tigrismount.objects.bounds import bound_bodies
from tigrismount.objects.endpoints import addressing_style, is_amazon
from tigrismount.objects.trust import read_bundles_once

if TYPE_CHECKING:
    from tigrismount.objects.keys import SigningKeys
    from tigrismount.objects.options import S3Config

_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""How the kernel asks whether the other end of a connection that says nothing is there still: after so many seconds,
so many apart, so many times. Its own first question comes after two hours."""


def make_boto_client(config: S3Config, keys: SigningKeys, connections: int) -> Any:
    """Return a boto3 S3 client. Takes a tenth of a second or two, and reads files: call it in a thread.

    Args:
        config: The endpoint.
        keys: Keys to sign with, and the session they belong to.
        connections: Connections kept open, at least as many as requests may be in flight.

    Raises:
        ConfigError: The endpoint URL or the CA bundle is unusable.
    """
    if config.ca_bundle and not os.access(config.ca_bundle, os.R_OK):
        raise ConfigError(f"cannot read the CA bundle {config.ca_bundle}: check --ca-bundle")
    try:
        client = boto3.session.Session(botocore_session=keys.session).client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            verify=config.ca_bundle,
            config=_settings(config, keys, connections),
        )
    except (ValueError, botocore.exceptions.BotoCoreError) as exc:
        raise ConfigError(f"cannot use {config.endpoint_url} as an S3 endpoint: {exc}") from exc
    _do_not_guess(client.meta.events)
    _miss_dead_connections(client)
    read_bundles_once(client, with_systems=config.ca_bundle is None)
    bound_bodies(client)
    if not is_amazon(config.endpoint_url):
        client.meta.events.register("before-call.s3", _stay_with_this_endpoint)
    return client


def _do_not_guess(events: Any) -> None:
    """Keep botocore from turning an answer with status 200 that is no XML into a server error, which we would retry.

    A web page where S3 was expected is for ``failures`` to tell.
    """
    guess = getattr(botocore.handlers, "_handle_200_error", None)
    if guess is not None:
        events.unregister("before-parse.s3.*", guess)


def _miss_dead_connections(client: Any) -> None:
    """Have no request sent on a connection that has been dead for a minute: it would wait until it counts as stalled.

    A gateway on the way forgets who says nothing for minutes and tells nobody, and so does a store that has moved to
    another address. Each idle connection would cost the time of a stall, and a look-up has that of two.
    """
    options = getattr(client._endpoint.http_session, "_socket_options", None)
    if isinstance(options, list):  # that of its pools, those of proxies as well
        options.extend((socket.IPPROTO_TCP, name, value) for name, value in _KEEP_ALIVE)


def _stay_with_this_endpoint(params: dict[str, Any], **_: Any) -> None:
    """Mark a request as redirected already: botocore's redirector knows Amazon's regions and no other store's.

    Elsewhere it asks the store for the bucket's region, is redirected again, and ends in a recursion.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _settings(config: S3Config, keys: SigningKeys, connections: int) -> Config:
    return Config(
        signature_version=UNSIGNED if keys.anonymous else "s3v4",
        s3={"addressing_style": addressing_style(config)},
        connect_timeout=config.connect_timeout_s,
        read_timeout=config.stall_timeout_s,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra=f"tigrismount/{__version__}",
    )
