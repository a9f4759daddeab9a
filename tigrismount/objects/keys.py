"""The key that requests are signed with, and how another one takes its place while the mount runs.

Keys expire and are rotated. When the store refuses one, the places it came from are looked at again, and if there is
another key now, the request is sent once more with it. So a rotation needs no remount, and nothing watches files:
a key that works is never looked up twice.

botocore asks ``SigningKeys`` for the key of each single request, so replacing it needs no new client and no new
connections. ``KeyRenewal`` decides when to look. A fetch process has no keys: ``PassedKeys`` signs each request with
the one that came with it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import botocore.credentials
import botocore.exceptions
import botocore.loaders
import botocore.session
import trio

from tigrismount import threads
from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.objects.credentials import Credentials, HandedIn

    FindCredentials = Callable[[], Credentials | None]

log = logging.getLogger(__name__)

LOOKUP_INTERVAL_S = 5.0
"""Least time between two look-ups: a refusal that no key mends must not read files for every request."""

OUTDATED_MOST = 100
"""Keys that one was handed in for, of which it is remembered: who hands in one each hour does so for years."""

LOOKUP_S = 15.0
"""Longest wait for a look-up: the program that a profile names may wait for a person, or a network that is away."""

_ISOLATED = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""Session variables of botocore: (configuration key, environment variable, default, conversion)."""

METADATA_SERVICES = ("container-role", "iam-role")
"""The end of boto3's chain: it takes seconds where nobody answers, and what it finds is a key for Amazon."""


class SigningKeys(botocore.credentials.Credentials):  # type: ignore[misc]
    """botocore's idea of credentials, with a key that can be replaced.

    Args:
        credentials: What was found; None leaves the choice to boto3's own chain.
        metadata_service: Whether that chain may ask the cloud that this machine is in.

    Raises:
        ConfigError: The profile is unusable.
    """

    def __init__(self, credentials: Credentials | None, *, metadata_service: bool = True) -> None:
        super().__init__("", "", method="tigrismount")
        self._metadata_service = metadata_service
        self.session, self._inner = _load(credentials, metadata_service)
        """The botocore session that belongs to the first key."""
        self.profile = credentials.profile if credentials is not None else None
        """The profile that session is of; None for none."""
        self.isolated = credentials is not None and credentials.profile is None
        """Whether that session leaves the AWS configuration files alone."""
        self.source = _source(credentials)
        """Where the key came from, for people."""
        self.anonymous = credentials is not None and credentials.anonymous
        """Whether requests go unsigned; stays so."""
        self.generation = 0
        """How often the key was replaced."""
        self.outdated: tuple[str, ...] = ()
        """Digests of keys that one was handed in for; where they were found, they still are."""
        self._turn = threading.Lock()
        self.session.register_component("credential_provider", self)

    def load_credentials(self) -> SigningKeys:
        """Return ourselves: the session asks its provider, which we are as well."""
        return self

    def get_frozen_credentials(self) -> Any:
        """Return the key to sign the next request with, None where there is none."""
        inner = self._inner
        return inner.get_frozen_credentials() if inner is not None else None

    def seal(self, text: bytes) -> bytes:
        """Return a digest of *text* that only who has the same key can make; what is kept by it tells no secret."""
        key = self.get_frozen_credentials()
        name, secret = (key.access_key, key.secret_key) if key is not None else ("", "")
        return hmac.digest(secret.encode(), name.encode() + b"\0" + text, "sha256")

    def replace(self, credentials: Credentials | None, generation: int | None = None) -> bool:
        """Take the key that *credentials* name, if it is another one; return whether it is. May read files.

        One that another key was handed in for is not gone back to: an environment, say, has it for ever. And none is
        taken that was looked for in the place of one of an earlier *generation*: a role has another each time.
        """
        return self._take(credentials, is_handed_in=False, generation=generation)

    def hand_in(self, credentials: Credentials) -> bool:
        """Take the key that *credentials* name, whatever was before; return whether it is another one."""
        return self._take(credentials, is_handed_in=True)

    def inherit(self, handed_in: HandedIn) -> None:
        """Take a key that was handed in to the process before this one; nobody is asked for the one that was found.

        Its program may be what failed. One that has been found since the key was handed in is not outdated.
        """
        _, inner = _load(handed_in.key, self._metadata_service)
        if self.anonymous:
            return
        with self._turn:
            self._inner, self.source, self.outdated = inner, handed_in.key.source, handed_in.outdated
            self.generation += 1

    def _take(self, credentials: Credentials | None, *, is_handed_in: bool, generation: int | None = None) -> bool:
        _, inner = _load(credentials, self._metadata_service)
        if inner is None or self.anonymous:
            return False
        found, present = inner.get_frozen_credentials(), self._present()
        if found == present:
            return False
        with self._turn:  # a look-up may take minutes, and know nothing of a key that was handed in meanwhile
            if is_handed_in:
                left = [digest for digest in self.outdated if digest not in {_digest(found), _digest(present)}]
                self.outdated = (*left, _digest(present))[-OUTDATED_MOST:]
            elif _digest(found) in self.outdated or generation not in {None, self.generation}:
                return False
            self._inner = inner
            self.source = _source(credentials)
            self.generation += 1
        return True

    def _present(self) -> Any:
        """Return the key in use, None where there is none or it cannot be had any more: then any other will do."""
        try:
            return self.get_frozen_credentials()
        except Exception:  # noqa: BLE001 - of whatever kind: what signs with it meets it too, and says it
            return None


class PassedKeys(botocore.credentials.Credentials):  # type: ignore[misc]
    """Keys that come with each request, from a process that looks after them.

    Args:
        profile: Profile whose other settings hold; None for none, and nothing of it is looked up but settings.
        isolated: Whether the AWS configuration files are left alone.
        anonymous: Whether requests go unsigned.
    """

    def __init__(self, profile: str | None, *, isolated: bool, anonymous: bool) -> None:
        super().__init__("", "", method="tigrismount")
        self.anonymous = anonymous
        """Whether requests go unsigned."""
        self.session = _session(profile, isolated=isolated)
        """The botocore session to make a client of."""
        self._local = threading.local()
        self.session.register_component("credential_provider", self)

    def load_credentials(self) -> PassedKeys:
        """Return ourselves: the session asks its provider, which we are as well."""
        return self

    def sign_with(self, key: tuple[str, str, str | None] | None) -> None:
        """Sign what this thread sends from now on with this key; None where there is none."""
        self._local.key = None if key is None else botocore.credentials.ReadOnlyCredentials(*key)

    def get_frozen_credentials(self) -> Any:
        """Return this thread's key."""
        return getattr(self._local, "key", None)


class KeyRenewal:
    """Looks for another key when the store has refused the one there is.

    Args:
        keys: Where a found key goes.
        find: Looks in all the places, in a thread; None when there is no other place to look.
    """

    def __init__(self, keys: SigningKeys, find: FindCredentials | None) -> None:
        self._keys = keys
        self._find = find
        self._lock = trio.Lock()
        self._places = trio.CapacityLimiter(1)
        """A look-up that nobody waits for any more goes on, and what it finds counts; meanwhile there is no other."""
        self._looked_s = -LOOKUP_INTERVAL_S
        self._fault = ""

    async def renewed(self, generation: int) -> bool:
        """Return whether there is another key now than that of *generation*, which was refused."""
        async with self._lock:
            if self._keys.generation != generation:
                return True  # others were refused too, and one of them found it
            now_s = trio.current_time()
            too_soon = now_s - self._looked_s < LOOKUP_INTERVAL_S or not self._places.available_tokens
            if self._find is None or self._keys.anonymous or too_soon:
                return False
            self._looked_s, found = now_s, False
            try:
                with trio.move_on_after(LOOKUP_S) as patience:
                    look = partial(self._look, generation)
                    found = await threads.run_sync(look, limiter=self._places, abandon_on_cancel=True)
            except (ConfigError, threads.NoThreadError) as exc:
                self._say(str(exc))  # a file that is being written, say: the next refusal looks again
                return self._keys.generation != generation
            if patience.cancelled_caught:
                self._say(f"it takes more than {LOOKUP_S:.0f} s")
        if found:
            self._fault = ""
            log.info("the store refused the key; going on with the one from %s", self._keys.source)
        return found or self._keys.generation != generation

    def _look(self, generation: int) -> bool:
        assert self._find is not None
        try:
            return self._keys.replace(self._find(), generation)
        except ConfigError:
            raise
        except Exception as exc:  # a login to be renewed by hand, a role that is refused, a token's file that is gone
            raise ConfigError(str(exc)) from exc

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            log.warning("the store refused the key, and no other can be looked up: %s", fault)


def _digest(key: Any) -> str:
    """Return what tells a key from others, and nothing else of it."""
    return hashlib.sha256(repr(None if key is None else tuple(key)).encode()).hexdigest()


def _source(credentials: Credentials | None) -> str:
    return credentials.source if credentials is not None else "boto3's own chain"


def _load(credentials: Credentials | None, metadata_service: bool) -> tuple[Any, Any]:
    """Return a botocore session and the credentials that it, or we ourselves, know; None for none.

    With a key of our own the session is cut off from the AWS configuration files: a profile for another store must
    not leak in.
    """
    if credentials is None or credentials.profile is not None:
        try:
            session = _session(credentials.profile if credentials else None, isolated=False)
            chain = session.get_component("credential_provider")
            for method in () if metadata_service else METADATA_SERVICES:
                chain.remove(method)
            return session, chain.load_credentials()
        except (ValueError, OSError, botocore.exceptions.BotoCoreError) as exc:  # OSError: a profile's program is gone
            raise ConfigError(f"no usable credentials from {_source(credentials)}: {exc}") from exc
    session = _session(None, isolated=True)
    if credentials.anonymous:
        return session, None
    return session, botocore.credentials.Credentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token or None
    )


def _session(profile: str | None, *, isolated: bool) -> Any:
    if not isolated:
        return botocore.session.Session(profile=profile)
    session = botocore.session.Session(session_vars=_ISOLATED)
    session.register_component("data_loader", _S3Only(session.get_config_variable("data_path")))
    return session


class _S3Only(botocore.loaders.Loader):  # type: ignore[misc]
    """Loads the models of S3, without walking through those of all services to see whether there is such a one.

    Only for a session with a key of its own: roles and single sign-on are services too.
    """

    def __init__(self, data_path: str | None) -> None:
        super().__init__(extra_search_paths=data_path.split(os.pathsep) if data_path else None)

    def list_available_services(self, type_name: str) -> list[str]:
        """Return what is asked for here."""
        return ["s3"]
