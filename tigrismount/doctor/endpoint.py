"""Whether the endpoint answers at all, before any key is tried: name, route, proxy, certificate and clock.

One unsigned HEAD of the base URL tells all of that; which status it has does not matter.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.httpsession import get_cert_path

from tigrismount.doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tigrismount.objects.options import S3Config

_TIMEOUT_S = 10.0
_REFUSED_SKEW_S = 15 * 60
"""From here on S3 refuses signatures ("RequestTimeTooSkewed")."""
_ODD_SKEW_S = 60
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    headers: Mapping[str, str]
    """Of the answer, names in lower case."""
    took_s: float
    """From nothing to the answer: name, connection, TLS."""
    at_s: float
    """Our time in the middle of that."""


def check_endpoint(config: S3Config) -> Iterator[Finding]:
    """Give the findings about the endpoint.

    Args:
        config: The connection.
    """
    url = config.endpoint_url
    try:
        answer = _ask(url, config.ca_bundle)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        yield _refusal(url, exc)
        return
    detail = f"{url} answers, {answer.took_s * 1000:.0f} ms with a new connection"
    yield Finding("endpoint", "pass", detail)
    yield check_encryption(url)
    yield check_clock(answer.headers.get("date", ""), answer.at_s)


def check_encryption(url: str) -> Finding:
    """Return whether requests are encrypted.

    Args:
        url: The endpoint, which answered.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        return Finding("TLS", "pass", "the certificate is trusted")
    if parts.hostname in _LOCAL:
        return Finding("TLS", "pass", "none, and the endpoint is this machine")
    remedy = "use an https:// endpoint unless the network between is yours alone"
    return Finding("TLS", "warn", "requests are signed and not encrypted", remedy)


def check_clock(date: str, at_s: float) -> Finding:
    """Return how far our clock is from the store's.

    Args:
        date: The ``Date`` of an answer.
        at_s: Our time when it was made.
    """
    parsed = parsedate_tz(date)
    if parsed is None:
        return Finding("clock", "skip", "the endpoint does not tell its time")
    try:
        skew_s = at_s - mktime_tz(parsed)
    except (ValueError, OverflowError):
        return Finding("clock", "skip", f"the endpoint tells no time: {date}")
    if abs(skew_s) < _ODD_SKEW_S:
        return Finding("clock", "pass", "agrees with the store's")
    detail = f"is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the store's"
    if abs(skew_s) < _REFUSED_SKEW_S:
        return Finding("clock", "warn", detail, "set it (NTP): from 15 minutes on signatures are refused")
    return Finding("clock", "fail", detail, "set it (NTP): the store refuses signatures that far off")


def _ask(url: str, ca_bundle: str | None) -> Answer:
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_context(ca_bundle)), _NoRedirect())
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - options allow http and https alone
    began_s = time.time()
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as reply:
            headers = dict(reply.headers.items())
    except urllib.error.HTTPError as reply:
        with reply:
            headers = dict(reply.headers.items())
    ended_s = time.time()
    return Answer({name.lower(): value for name, value in headers.items()}, ended_s - began_s, (began_s + ended_s) / 2)


def _context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return what judges certificates as a mount does: *ca_bundle* alone, or botocore's authorities and the system's.

    Python's own default is stricter than botocore from 3.13 on.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True))
    if ca_bundle is None:
        context.load_default_certs()
    return context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow nothing: a redirect is an answer too."""


def _refusal(url: str, exc: Exception) -> Finding:
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(reason, ssl.SSLCertVerificationError):
        remedy = "name the authority that signed it with --ca-bundle FILE, or set the clock"
        return Finding("endpoint", "fail", f"{url}: the certificate is not trusted: {reason.verify_message}", remedy)
    words = getattr(reason, "strerror", None) or str(reason)
    if isinstance(reason, UnicodeError):
        words = "its name is no host's"
    elif isinstance(reason, http.client.InvalidURL | ValueError):
        # The error quotes what it took for a host or a port, which may be the proxy's password.
        words = "the proxy's address, or this one, is none; in a password, # / @ are written as %23 %2F %40"
    elif isinstance(reason, http.client.HTTPException):
        words = f"what answers there does not speak HTTP: {words.strip()}"
    remedy = "check --endpoint-url, AWS_ENDPOINT_URL_S3, the network, and HTTPS_PROXY"
    return Finding("endpoint", "fail", f"{url}: {words}", remedy)
