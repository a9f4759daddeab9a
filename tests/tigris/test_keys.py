"""Keys that are refused while a mount runs, and replaced."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio

from tigrismount import engine
from tigrismount.app import Worker
from tigrismount.demo.command import wait_until
from tigrismount.errors import ConfigError, ObjectAccessError, ObjectUnavailableError
from tigrismount.holder.protocol import MAX_MESSAGE_BYTES, Channel
from tigrismount.objects.credentials import HANDED_IN, Credentials, HandedIn, find_credentials, read_text_file
from tigrismount.objects.keys import LOOKUP_INTERVAL_S, LOOKUP_S, OUTDATED_MOST, KeyRenewal, SigningKeys
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.waiting import no_threads

OLD = Credentials(source="a file", access_key_id="tid_one", secret_access_key="one")
NEW = Credentials(source="the file, later", access_key_id="tid_two", secret_access_key="two")


class Places:
    """Where keys are looked up; counts how often."""

    def __init__(self, found: Credentials | ConfigError | None) -> None:
        self.found = found
        self.looks = 0

    def __call__(self) -> Credentials | None:
        self.looks += 1
        if isinstance(self.found, ConfigError):
            raise self.found
        return self.found


@pytest.fixture
def stocked(tigris):
    tigris.tigris.put("models", "weights", b"w" * 100)
    return tigris


async def test_a_replaced_key_is_found_without_a_failed_request(stocked, connect, read):
    places = Places(NEW)
    client = connect(stocked, OLD, find_credentials=places)
    obj = (await client.head("models", "weights")).id
    stocked.tigris.keys = {NEW.access_key_id}

    assert await read(client, obj) == b"w" * 100
    assert (await client.head("models", "weights")).id == obj
    assert places.looks == 1
    assert client.key_source == "the file, later"
    assert [request.access_key for request in stocked.tigris.operations("GetObject")] == ["tid_one", "tid_two"]


async def test_requests_that_are_refused_together_look_once(stocked, connect, read):
    places = Places(NEW)
    client = connect(stocked, OLD, find_credentials=places)
    obj = (await client.head("models", "weights")).id
    stocked.tigris.keys = {NEW.access_key_id}
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read, client, obj)
    assert places.looks == 1


@pytest.mark.parametrize(
    "refusal", [(403, "InvalidAccessKeyId"), (400, "ExpiredToken"), (401, "Unauthorized"), (403, "AccessDenied")]
)
async def test_a_key_that_nobody_replaced_is_an_access_error_and_looked_up_rarely(stocked, connect, refusal):
    places = Places(OLD)
    client = connect(stocked, OLD, find_credentials=places)
    stocked.tigris.keys, stocked.tigris.refusal = set(), refusal
    for _ in range(3):
        with pytest.raises(ObjectAccessError):
            await client.list_page("models", "")
    assert places.looks == 1
    assert len(stocked.tigris.requests) == 3


async def test_the_next_look_finds_what_the_first_did_not(stocked, connect, mock_clock):
    """The places are half written at first, then hold the old key, then a new one."""
    places = Places(ConfigError("the file is damaged"))
    client = connect(stocked, OLD, find_credentials=places)
    stocked.tigris.keys = {NEW.access_key_id}
    for found in (places.found, None, OLD):
        places.found = found
        with pytest.raises(ObjectAccessError):
            await client.head("models", "weights")
        mock_clock.jump(LOOKUP_INTERVAL_S)
    places.found = NEW
    assert (await client.head("models", "weights")).id.size_bytes == 100
    assert places.looks == 4


@pytest.mark.parametrize(
    "profile",
    [
        ("credential_process = /nonexistent/program",),
        ("role_arn = arn:aws:iam::1:role/r", "web_identity_token_file = /nonexistent/token"),
        ("role_arn = arn:aws:iam::1:role/r", "source_profile = base"),
    ],
    ids=["program gone", "token gone", "role refused"],
)
async def test_a_look_that_fails_in_whatever_way_is_a_refusal(stocked, connect, read, profile, monkeypatch, tmp_path):
    """Mutation: what a profile's program, its token's file or its role raises leaves the client, and ends the mount."""
    base = ("[profile base]", "aws_access_key_id = tid_one", "aws_secret_access_key = one")
    (tmp_path / "config").write_text("\n".join(["[profile p]", "region = us-east-1", *profile, *base]))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", stocked.url)
    client = connect(stocked, OLD, find_credentials=Places(Credentials(source="profile 'p'", profile="p")))
    obj = (await client.head("models", "weights")).id
    stocked.tigris.keys = set()
    with pytest.raises(ObjectAccessError):
        await read(client, obj)


def test_a_profile_whose_program_is_gone_is_told_at_once(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[profile p]\ncredential_process = /nonexistent/program\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(ConfigError, match="/nonexistent/program"):
        SigningKeys(Credentials(source="profile 'p'", profile="p"))


async def test_a_key_that_was_handed_in_outlives_a_refusal(stocked, connect):
    """Mutation: one refusal, and the mount signs with the old key of its environment for the rest of its life."""
    places = Places(OLD)
    client = connect(stocked, OLD, find_credentials=places)
    assert await client.replace_key(NEW)
    stocked.tigris.keys, stocked.tigris.refusal = set(), (403, "AccessDenied")  # the store does not know it yet
    with pytest.raises(ObjectAccessError):
        await client.head("models", "weights")
    assert places.looks == 1
    stocked.tigris.keys = {NEW.access_key_id}
    assert (await client.head("models", "weights")).id.size_bytes == 100


def test_a_key_that_is_handed_in_again_counts_again():
    keys = SigningKeys(OLD)
    assert (keys.hand_in(NEW), keys.replace(OLD)) == (True, False)
    assert (keys.hand_in(OLD), keys.replace(NEW)) == (True, False)
    assert not keys.hand_in(OLD)
    assert keys.source == OLD.source


def test_who_takes_over_goes_on_with_a_key_that_was_handed_in():
    """Mutation: it takes the key of its environment for the newer one, or for ever one that a file has got since."""
    before = SigningKeys(OLD)
    assert before.hand_in(NEW)
    handed_in = HandedIn.from_values(json.loads(json.dumps(HandedIn(NEW, before.outdated).to_values())))
    assert OLD.secret_access_key not in repr(before.outdated)
    after, written = SigningKeys(OLD), replace(OLD, access_key_id="tid_three")
    after.inherit(handed_in)
    assert (after.replace(OLD), after.source) == (False, HANDED_IN)
    later = SigningKeys(written)  # of a file that was written again meanwhile
    later.inherit(handed_in)
    assert (later.replace(OLD), later.replace(written)) == (False, True), "once the store refuses the one handed in"


@pytest.mark.parametrize("program", ["exit 1", "sleep 20"], ids=["fails", "hangs"])
async def test_who_takes_over_does_not_need_the_program_that_a_key_was_handed_in_for(program, monkeypatch, tmp_path):
    """Mutation: no worker comes to serve, and a mount that had a good key is lost."""
    monkeypatch.setattr(engine, "LOOKUP_S", 0.5)
    (tmp_path / "program").write_text(f"#!/bin/sh\nexec 2>/dev/null\n{program}\n")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = '{tmp_path}/program'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    profile, config = Credentials(source="profile 'p'", profile="p"), SimpleNamespace(s3=S3Config())
    key = HandedIn(NEW, ())
    client = await engine._connect(config, credentials=profile, find=lambda: profile, fetchers=None, key=key)
    assert client.key_source == NEW.source
    await client.aclose()


def test_a_key_for_each_hour_still_fits_in_a_message_after_years():
    keys = SigningKeys(OLD)
    for hour in range(2 * OUTDATED_MOST):
        keys.hand_in(replace(NEW, access_key_id=f"tid_{hour}"))
    assert len(json.dumps(HandedIn(NEW, keys.outdated).to_values())) < MAX_MESSAGE_BYTES // 4
    assert not keys.replace(replace(NEW, access_key_id=f"tid_{2 * OUTDATED_MOST - 2}"))


def test_a_key_that_is_handed_in_while_another_is_looked_up_stays(monkeypatch, tmp_path):
    """Mutation: a profile's program that took its time brings the old key back, for good."""
    handed_in, keys = tmp_path / "handed in", SigningKeys(OLD)
    old = json.dumps({"Version": 1, "AccessKeyId": OLD.access_key_id, "SecretAccessKey": OLD.secret_access_key})
    (tmp_path / "program").write_text(f"#!/bin/sh\nuntil [ -e '{handed_in}' ]; do sleep 0.01; done\necho '{old}'\n")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = '{tmp_path}/program'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    found = []
    profile = Credentials(source="profile 'p'", profile="p")
    looking = threading.Thread(target=lambda: found.append(keys.replace(profile)))
    looking.start()
    time.sleep(0.1)
    assert keys.hand_in(NEW)
    handed_in.touch()
    looking.join(30)
    assert (found, keys.source) == ([False], NEW.source)


async def test_a_key_that_is_handed_in_while_a_role_is_asked_for_another_stays():
    """Mutation: a role has another key each time, so the one that comes late is not known to be outdated."""
    keys, asked, answers = SigningKeys(OLD), threading.Event(), threading.Event()

    def ask() -> Credentials:
        asked.set()
        answers.wait(30)
        return Credentials(source="a role", access_key_id="session", secret_access_key="of the role")

    renewal, renewed = KeyRenewal(keys, ask), []

    async def renew() -> None:
        renewed.append(await renewal.renewed(0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(renew)
        await trio.to_thread.run_sync(asked.wait, 30)
        assert keys.hand_in(NEW)
        answers.set()
    assert (renewed, keys.source) == ([True], NEW.source), "there is another key than was refused"


def test_a_key_that_cannot_be_had_any_more_is_replaced(monkeypatch, tmp_path):
    """Mutation: the profile's lost token keeps every other key out, found or handed in."""
    (tmp_path / "config").write_text("[profile p]\nrole_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = /none\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for take in ("replace", "hand_in"):
        keys = SigningKeys(Credentials(source="profile 'p'", profile="p"))
        assert getattr(keys, take)(NEW)
        assert keys.source == NEW.source


async def test_a_new_key_in_tigris_own_file_is_found(stocked, connect, tmp_path):
    path = tmp_path / ".tigris" / "config.json"
    path.parent.mkdir()

    def write(key: str) -> None:
        path.write_text(json.dumps({"credentials": {"accessKeyId": key, "secretAccessKey": "s"}}))

    def find() -> Credentials | None:
        return find_credentials(S3Config(), {}, tmp_path, read_text_file)

    write("tid_one")
    client = connect(stocked, find(), find_credentials=find)
    await client.head("models", "weights")
    write("tid_two")
    stocked.tigris.keys = {"tid_two"}
    assert (await client.head("models", "weights")).id.size_bytes == 100


@pytest.mark.parametrize(("endpoint_url", "asked"), [("https://t3.storage.dev", False), (None, True)])
def test_tigris_own_hosts_are_not_a_reason_to_ask_a_metadata_service(
    tigris, monkeypatch, tmp_path, endpoint_url, asked
):
    """A profile that names no key ends boto3's chain in one, which elsewhere may have a key."""
    (tmp_path / "config").write_text("[profile empty]\nregion = auto\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", tigris.url)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)

    S3Client(S3Config(endpoint_url=endpoint_url or tigris.url), Credentials(source="p", profile="empty"))

    assert bool(tigris.tigris.requests) is asked


async def test_a_wrong_clock_is_said_so(stocked, connect):
    client = connect(stocked, OLD, metadata_timeout_s=0.5)
    stocked.tigris.keys, stocked.tigris.refusal = set(), (403, "RequestTimeTooSkewed")
    with pytest.raises(ObjectUnavailableError, match="this machine's clock is wrong"):
        await client.list_page("models", "")


async def test_a_clock_that_is_set_right_in_time_fails_no_read(stocked, connect, read):
    """As after a machine was suspended for long: whoever has the file mapped would die of the first page they touch."""
    client = connect(stocked, OLD)
    info = await client.head("models", "weights")
    keys, stocked.tigris.keys, stocked.tigris.refusal = stocked.tigris.keys, set(), (403, "RequestTimeTooSkewed")

    async def set_clock() -> None:
        while not client.statistics().retries:  # noqa: ASYNC110 - a thread counts them
            await trio.sleep(0.01)
        stocked.tigris.keys = keys

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_clock)
        assert len(await read(client, info.id)) == 100


async def test_an_anonymous_client_reads_a_public_bucket_that_it_may_not_list(tigris, connect, read):
    tigris.tigris.create_bucket("public", public=True)
    tigris.tigris.put("public", "weights", b"w")
    client = connect(tigris, Credentials(source="--no-sign-request"), no_sign_request=True)

    await client.check_access("public", "")

    assert client.notes() == [
        "the bucket refuses anonymous listings: files under the prefix open by name, directories are not seen"
    ]
    info = await client.head("public", "weights")
    assert await read(client, info.id) == b"w"
    with pytest.raises(ObjectAccessError):
        await client.list_page("public", "")
    assert all(not request.access_key for request in tigris.tigris.requests)


async def test_a_signed_client_that_may_not_list_is_refused(stocked, connect):
    client = connect(stocked, NEW)
    with pytest.raises(ObjectAccessError):
        await client.check_access("models", "")


async def test_a_system_without_a_thread_to_look_is_asked_again_later(autojump_clock, caplog):
    """Mutation: Python's own error ends the daemon."""
    places, keys = Places(NEW), SigningKeys(OLD)
    renewal = KeyRenewal(keys, places)
    with no_threads():
        assert not await renewal.renewed(keys.generation)
    assert "raise the limit of tasks" in caplog.text
    await trio.sleep(LOOKUP_INTERVAL_S)
    assert await renewal.renewed(keys.generation)
    assert (places.looks, keys.source) == (1, NEW.source)


async def test_a_look_that_does_not_end_holds_nobody_up(mock_clock, caplog):
    """Mutation: a program that waits for a person hangs a look-up in the mount beyond every deadline."""
    answered, places, keys = threading.Event(), Places(NEW), SigningKeys(OLD)

    def find() -> Credentials | None:
        found = places()
        answered.wait(5)
        return found

    renewal, renewed = KeyRenewal(keys, find), []

    async def ask() -> None:
        renewed.append(await renewal.renewed(0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        assert await trio.to_thread.run_sync(wait_until, lambda: places.looks == 1)
        mock_clock.jump(LOOKUP_S)
    assert "it takes more than 15 s" in caplog.text
    mock_clock.jump(LOOKUP_INTERVAL_S)
    await ask()
    assert renewed == [False, False]
    assert places.looks == 1, "there is one already"
    answered.set()
    assert await trio.to_thread.run_sync(wait_until, lambda: keys.generation == 1)
    assert await renewal.renewed(0), "what it found counts"


async def test_a_system_without_a_thread_for_a_new_key_of_a_volume_is_said_and_costs_no_mount(stocked, connect):
    """Mutation: Python's own error ends the task that listens to the supervisor, and the worker."""
    client = connect(stocked, OLD)
    secret = {"AWS_ACCESS_KEY_ID": NEW.access_key_id, "AWS_SECRET_ACCESS_KEY": NEW.secret_access_key}
    ours, theirs = Channel.pair()
    worker = Worker(ours)
    with no_threads():
        assert "raise the limit of tasks" in await worker._rotate({"secret": secret}, client)
    assert await worker._rotate({"secret": secret}, client) == ""
    assert client.key_source != OLD.source
    for channel in (ours, theirs):
        channel.close()
