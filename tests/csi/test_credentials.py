"""The Secret of a volume."""

from __future__ import annotations

import pytest

from tigrismount.csi.credentials import fingerprint, parse_secret
from tigrismount.csi.refusal import RefusalError

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}


@pytest.mark.parametrize(
    "secret",
    [
        KEYS,
        {"accessKeyID": "AKIA", "secretAccessKey": "s3cr3t"},
        {"TIGRIS_STORAGE_ACCESS_KEY_ID": "AKIA", "TIGRIS_STORAGE_SECRET_ACCESS_KEY": "s3cr3t"},
        {"AWS_ACCESS_KEY_ID": "AKIA\n", "AWS_SECRET_ACCESS_KEY": " s3cr3t\n"},
        {**KEYS, "accessKeyID": "AKIA"},
    ],
)
def test_keys_are_known_by_several_names(secret):
    assert parse_secret(secret).keys == KEYS


def test_no_secret_is_no_key():
    assert parse_secret({}).keys == {}


def test_a_session_token_belongs_to_the_key():
    assert parse_secret({**KEYS, "AWS_SESSION_TOKEN": "t"}).keys == {**KEYS, "AWS_SESSION_TOKEN": "t"}


def test_endpoint_and_region_are_options_and_no_secrets():
    secret = parse_secret({**KEYS, "endpoint": "https://t3.storage.dev", "AWS_REGION": "auto"})

    assert secret.options == {"endpoint_url": "https://t3.storage.dev", "region": "auto"}
    assert secret.keys == KEYS


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ({"AWS_ACCES_KEY_ID": "s3cr3t"}, "unknown key 'AWS_ACCES_KEY_ID' (did you mean AWS_ACCESS_KEY_ID?)"),
        ({"AWS_ACCESS_KEY_ID": "s3cr3t"}, "AWS_ACCESS_KEY_ID is there, but no AWS_SECRET_ACCESS_KEY"),
        ({"secretAccessKey": "s3cr3t"}, "secretAccessKey is there, but no AWS_ACCESS_KEY_ID"),
        ({"AWS_SESSION_TOKEN": "s3cr3t"}, "AWS_SESSION_TOKEN is there, but no AWS_ACCESS_KEY_ID"),
        ({**KEYS, "accessKeyID": "s3cr3t"}, "say different things"),
        ({**KEYS, "AWS_SECRET_ACCESS_KEY": " "}, "AWS_SECRET_ACCESS_KEY is empty"),
        ({**KEYS, "AWS_SECRET_ACCESS_KEY": "s3cr3t\x00"}, "encoded twice"),
        ({**KEYS, "endpoint": "s3cr3t"}, "endpoint: expected a URL"),
    ],
)
def test_faults_are_told_without_values(secret, says):
    with pytest.raises(RefusalError) as caught:
        parse_secret(secret)

    assert says in caught.value.message
    assert "s3cr3t" not in caught.value.message


def test_a_secret_is_not_shown_by_repr():
    assert "s3cr3t" not in repr(parse_secret(KEYS))


def test_fingerprints_tell_keys_apart_and_nodes_too():
    assert fingerprint(KEYS, b"node") == fingerprint(dict(reversed(KEYS.items())), b"node")
    assert fingerprint(KEYS, b"node") != fingerprint({**KEYS, "AWS_SESSION_TOKEN": "t"}, b"node")
    assert fingerprint(KEYS, b"node") != fingerprint(KEYS, b"other")
    assert fingerprint({}, b"node") == ""
