"""Where the access key comes from.

Tigris users have keys in several places, and the wrong one is worse than none: it fails with "access denied" much
later. So the order is fixed (the one Tigris's own tools use), the first place that has a key wins, a half-given key
is an error, and every key remembers its source for ``status``, ``doctor`` and error messages.

1. an explicit profile: ``--profile``, else ``AWS_PROFILE``
2. ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``
3. ``TIGRIS_STORAGE_ACCESS_KEY_ID`` and ``TIGRIS_STORAGE_SECRET_ACCESS_KEY``
4. ``~/.tigris/config.json``, written by ``tigris configure`` and ``tigris login``
5. on Tigris: the ``default`` profile of a file that ``AWS_SHARED_CREDENTIALS_FILE`` names, as the systemd unit does
6. off Tigris: whatever boto3's own chain finds

A ``default`` profile made by ``aws configure`` for Amazon does not count on Tigris, and the chain ends in metadata
services that can take seconds to answer, hence 5 and 6. The lookup is a pure function of the environment, the home
directory and a function that reads files.
"""

from __future__ import annotations

import configparser
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigrismount.errors import CredentialsError
from tigrismount.objects.endpoints import is_tigris

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.objects.options import S3Config

    ReadFile = Callable[[Path], str | None]

_WAYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with --profile, run 'tigris configure', "
    "or use --no-sign-request for a public bucket"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One access key, or the name of a profile that boto3 resolves, or neither (anonymous)."""

    source: str
    """Where it was found, for people."""
    access_key_id: str = ""
    """Public half; empty when anonymous or left to boto3."""
    secret_access_key: str = field(default="", repr=False)
    """Secret half; never shown."""
    session_token: str = field(default="", repr=False)
    """Token of temporary keys, empty for others; never shown."""
    profile: str | None = None
    """Profile that boto3 must resolve itself (single sign-on, role, external process)."""

    @property
    def anonymous(self) -> bool:
        """Whether requests go unsigned."""
        return not self.access_key_id and self.profile is None


HANDED_IN = "tigrismount refresh --credentials"
"""Source of a key that came over the control socket."""


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A key that was handed in while a mount ran, as the next process of that mount needs it."""

    key: Credentials
    """The key."""
    outdated: tuple[str, ...]
    """Digests of those it is in the place of, which are not gone back to."""

    def to_values(self) -> dict[str, Any]:
        """Return it for a message."""
        names = ("access_key_id", "secret_access_key", "session_token")
        return {"outdated": list(self.outdated), **{name: getattr(self.key, name) for name in names}}

    @classmethod
    def from_values(cls, values: Any) -> HandedIn | None:
        """Return what ``to_values`` was called on; None where *values* are none of a key."""
        if not isinstance(values, dict):
            return None
        texts = [str(values.get(name, "")) for name in ("access_key_id", "secret_access_key", "session_token")]
        if not texts[0] or not texts[1]:
            return None
        key = Credentials(source=HANDED_IN, access_key_id=texts[0], secret_access_key=texts[1], session_token=texts[2])
        outdated = values.get("outdated")
        return cls(key, tuple(map(str, outdated)) if isinstance(outdated, list) else ())


def find_credentials(config: S3Config, env: Mapping[str, str], home: Path, read_file: ReadFile) -> Credentials | None:
    """Return the first credentials in the order above.

    Args:
        config: Endpoint and profile.
        env: Environment variables.
        home: Home directory.
        read_file: Returns a file's text, None when there is none.

    Returns:
        None where the choice is left to boto3's own chain, which happens off Tigris only.

    Raises:
        CredentialsError: Nothing was found on Tigris, the profile is unknown, or only half a key is given; the detail
            says what to do.
    """
    if config.no_sign_request:
        return Credentials(source="--no-sign-request")
    found = (
        _from_profile(config, env, home, read_file)
        or _from_env(env, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        or _from_env(env, "TIGRIS_STORAGE_ACCESS_KEY_ID", "TIGRIS_STORAGE_SECRET_ACCESS_KEY")
    )
    if found is not None:
        return found
    on_tigris = is_tigris(config.endpoint_url)
    found = _from_tigris_file(home / ".tigris" / "config.json", read_file, needed=on_tigris)
    if found is None and on_tigris:
        found = _from_named_file(env, home, read_file)
    if found is None and on_tigris:
        raise CredentialsError(f"no credentials for {config.endpoint_url}: {_WAYS}")
    return found


def credentials_in(secret: Mapping[str, str], source: str) -> Credentials | None:
    """Return the key in *secret*, which has the names of the environment's variables; None where there is none.

    Args:
        secret: ``AWS_ACCESS_KEY_ID`` and so on.
        source: Where it came from, for people.

    Raises:
        CredentialsError: It holds half a key.
    """
    found = _from_env(secret, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return None if found is None else replace(found, source=source)


def home_directory() -> Path:
    """Return the home directory of this user; the root where nobody knows one, as in a container of a mere number."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def read_text_file(path: Path) -> str | None:
    """Return the text of *path*, None when there is no such file; the ``read_file`` of real life.

    Raises:
        CredentialsError: The file is there and cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise CredentialsError(f"cannot read credentials from {path}: {reason}") from exc


def _from_env(env: Mapping[str, str], id_name: str, secret_name: str, token_name: str = "") -> Credentials | None:
    # A Secret that was made with echo ends in a line break, which no key does and no header may.
    access_key_id, secret = env.get(id_name, "").strip(), env.get(secret_name, "").strip()
    if bool(access_key_id) != bool(secret):
        given, missing = (id_name, secret_name) if access_key_id else (secret_name, id_name)
        raise CredentialsError(f"{given} is set but {missing} is not: set both or neither")
    if not access_key_id:
        return None
    token = env.get(token_name, "").strip()
    return Credentials(source=id_name, access_key_id=access_key_id, secret_access_key=secret, session_token=token)


def _from_profile(config: S3Config, env: Mapping[str, str], home: Path, read_file: ReadFile) -> Credentials | None:
    name = config.profile or env.get("AWS_PROFILE", "")
    if not name:
        return None
    shared = _expand(env.get("AWS_SHARED_CREDENTIALS_FILE", ""), home) or home / ".aws" / "credentials"
    main = _expand(env.get("AWS_CONFIG_FILE", ""), home) or home / ".aws" / "config"
    texts = [read_file(shared), read_file(main)]
    if texts == [None, None] and not config.profile:
        return None  # AWS_PROFILE left over on a machine that has no AWS files: Tigris's tools ignore it as well
    sections = [
        _section(texts[0], [name], shared),
        _section(texts[1], ["default"] if name == "default" else [f"profile {name}"], main),
    ]
    if sections == [None, None]:
        raise CredentialsError(f"there is no profile {name!r} in {shared} or {main}: check --profile and AWS_PROFILE")
    return _profile_credentials(name, [section for section in sections if section is not None])


def _from_named_file(env: Mapping[str, str], home: Path, read_file: ReadFile) -> Credentials | None:
    path = _expand(env.get("AWS_SHARED_CREDENTIALS_FILE", ""), home)
    section = _section(read_file(path), ["default"], path) if path else None
    return None if section is None else _profile_credentials("default", [section])


def _profile_credentials(name: str, sections: list[Mapping[str, str]]) -> Credentials:
    source = f"profile {name!r}"
    is_role = any("role_arn" in section for section in sections)  # its keys, in the other file perhaps, are to get it
    for section in sections:
        access_key_id = section.get("aws_access_key_id", "")
        secret = section.get("aws_secret_access_key", "")
        if bool(access_key_id) != bool(secret):
            raise CredentialsError(f"{source} has only half a key: set aws_access_key_id and aws_secret_access_key")
        if access_key_id and not is_role:
            token = section.get("aws_session_token", "")
            return Credentials(
                source=source, access_key_id=access_key_id, secret_access_key=secret, session_token=token
            )
    return Credentials(source=source, profile=name)


def _expand(path: str, home: Path) -> Path | None:
    if not path:
        return None
    return home / path[2:] if path.startswith("~/") else home / path


def _section(text: str | None, names: list[str], path: Path) -> Mapping[str, str] | None:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text or "")
    except configparser.Error as exc:
        # Not from exc, which quotes what it does not understand: half a key in whatever a traceback is sent to.
        raise CredentialsError(f"{path} is damaged: {str(exc).splitlines()[0]}") from None
    for name in names:
        if parser.has_section(name):
            return dict(parser[name])
    return None


def _from_tigris_file(path: Path, read_file: ReadFile, *, needed: bool) -> Credentials | None:
    """Read schema 1 (key pair under ``credentials``) and 2 (``temporary`` before ``saved``).

    Args:
        path: The file.
        read_file: As in ``find_credentials``.
        needed: Whether nothing comes after this file, so that its faults must be told.
    """
    try:
        text = read_file(path)
    except CredentialsError:  # as of a home directory that is another user's
        if needed:
            raise
        return None
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as exc:
        if not needed:
            return None
        raise CredentialsError(f"{path} is damaged: {exc}; {_WAYS}") from exc
    for pair in _key_pairs(document):
        access_key_id, secret = pair.get("accessKeyId"), pair.get("secretAccessKey")
        if isinstance(access_key_id, str) and isinstance(secret, str) and access_key_id and secret:
            return Credentials(source=str(path), access_key_id=access_key_id, secret_access_key=secret)
    if needed and isinstance(document, dict) and (document.get("activeMethod") == "oauth" or "oauth" in document):
        raise CredentialsError(
            f"{path} holds a browser login, which a mount cannot renew: create an access key "
            "('tigris access-keys create') and run 'tigris configure', or set AWS_ACCESS_KEY_ID"
        )
    return None


def _key_pairs(document: Any) -> list[dict[str, Any]]:
    credentials = document.get("credentials") if isinstance(document, dict) else None
    if not isinstance(credentials, dict):
        return []
    pairs = (credentials.get("temporary"), credentials.get("saved"), credentials)
    return [pair for pair in pairs if isinstance(pair, dict)]
