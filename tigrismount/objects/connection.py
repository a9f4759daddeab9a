"""Makes the boto3 client: the one place that knows its settings.

Everything is said explicitly. boto3 would otherwise pick us-east-1 for Tigris, path-style addresses, ten connections,
its own retries (which do not cover bodies, and would hide a store that asks for fewer requests), and checksums that
some stores answer wrongly on ranges. With a key of our own the session is cut off from the AWS configuration files: a
profile for another store must not leak in.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import botocore.handlers
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

from tigrismount import __version__
from tigrismount.errors import ConfigError
from tigrismount.objects.endpoints import addressing_style, is_amazon

if TYPE_CHECKING:
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.options import S3Config

_ISOLATED = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""Session variables of botocore: (configuration key, environment variable, default, conversion)."""


def make_boto_client(config: S3Config, credentials: Credentials | None, connections: int) -> Any:
    """Return a boto3 S3 client. Takes a tenth of a second or two, and reads files: call it in a thread.

    Args:
        config: The endpoint.
        credentials: Key to sign with; None lets boto3 find one.
        connections: Connections kept open, at least as many as requests may be in flight.

    Raises:
        ConfigError: The endpoint URL, the profile or the CA bundle is unusable.
    """
    if config.ca_bundle and not os.access(config.ca_bundle, os.R_OK):
        raise ConfigError(f"cannot read the CA bundle {config.ca_bundle}: check --ca-bundle")
    try:
        client = _session(credentials).client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            verify=config.ca_bundle,
            config=_settings(config, credentials, connections),
            **_key(credentials),
        )
    except (ValueError, botocore.exceptions.BotoCoreError) as exc:
        raise ConfigError(f"cannot use {config.endpoint_url} as an S3 endpoint: {exc}") from exc
    _do_not_guess(client.meta.events)
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


def _stay_with_this_endpoint(params: dict[str, Any], **_: Any) -> None:
    """Mark a request as redirected already: botocore's redirector knows Amazon's regions and no other store's.

    Elsewhere it asks the store for the bucket's region, is redirected again, and ends in a recursion.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _session(credentials: Credentials | None) -> boto3.session.Session:
    if credentials is None:
        return boto3.session.Session()
    if credentials.profile is not None:
        return boto3.session.Session(profile_name=credentials.profile)
    return boto3.session.Session(botocore_session=botocore.session.Session(session_vars=_ISOLATED))


def _key(credentials: Credentials | None) -> dict[str, str | None]:
    if credentials is None or not credentials.access_key_id:
        return {}
    return {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token or None,
    }


def _settings(config: S3Config, credentials: Credentials | None, connections: int) -> Config:
    anonymous = config.no_sign_request or (credentials is not None and credentials.anonymous)
    return Config(
        signature_version=UNSIGNED if anonymous else "s3v4",
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
