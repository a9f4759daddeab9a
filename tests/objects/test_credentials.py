from __future__ import annotations

import json
import os
import pwd
import traceback
from pathlib import Path

import pytest

from tigrismount.errors import ConfigError, CredentialsError
from tigrismount.objects.credentials import (
    Credentials,
    credentials_in,
    find_credentials,
    home_directory,
    read_text_file,
)
from tigrismount.objects.options import S3Config

HOME = Path("/home/anna")
TIGRIS = S3Config()
LOCAL = S3Config(endpoint_url="http://localhost:9000")
AWS_ENV = {"AWS_ACCESS_KEY_ID": "aws-id", "AWS_SECRET_ACCESS_KEY": "aws-secret"}
TIGRIS_ENV = {"TIGRIS_STORAGE_ACCESS_KEY_ID": "tid_env", "TIGRIS_STORAGE_SECRET_ACCESS_KEY": "tsec_env"}
CREDENTIALS_FILE = """
[default]
aws_access_key_id = d
aws_secret_access_key = ds
[work]
aws_access_key_id = w
aws_secret_access_key = ws
"""


def tigris_file(**credentials) -> str:
    return json.dumps({"version": 2, "activeMethod": "credentials", "credentials": credentials})


SAVED = {"accessKeyId": "tid_saved", "secretAccessKey": "tsec_saved"}
TEMPORARY = {"accessKeyId": "tid_temp", "secretAccessKey": "tsec_temp"}


def find(config=TIGRIS, env=None, files=None) -> Credentials | None:
    files = {str(HOME / name): text for name, text in (files or {}).items()}
    return find_credentials(config, env or {}, HOME, lambda path: files.get(str(path)))


def test_the_order_is_profile_then_aws_then_tigris_then_its_file():
    env = {**AWS_ENV, **TIGRIS_ENV, "AWS_PROFILE": "work"}
    files = {".aws/credentials": CREDENTIALS_FILE, ".tigris/config.json": tigris_file(saved=SAVED)}
    ids = []
    for dropped in ((), ("AWS_PROFILE",), tuple(AWS_ENV), tuple(TIGRIS_ENV)):
        for name in dropped:
            del env[name]
        ids.append(find(env=env, files=files).access_key_id)
    assert ids == ["w", "aws-id", "tid_env", "tid_saved"]


def test_the_profile_flag_beats_the_variable():
    files = {".aws/credentials": CREDENTIALS_FILE}
    found = find(S3Config(profile="work"), {"AWS_PROFILE": "default"}, files)
    assert (found.access_key_id, found.secret_access_key, found.source) == ("w", "ws", "profile 'work'")


def test_a_default_profile_nobody_asked_for_does_not_count_on_tigris():
    with pytest.raises(ConfigError, match=r"no credentials for https://t3\.storage\.dev: set AWS_ACCESS_KEY_ID"):
        find(files={".aws/credentials": CREDENTIALS_FILE})


def test_the_default_profile_of_a_file_that_is_named_counts_on_tigris_where_nothing_else_does():
    env = {"AWS_SHARED_CREDENTIALS_FILE": "/run/credentials/unit/credentials"}
    files = {"/run/credentials/unit/credentials": CREDENTIALS_FILE}
    assert find(env=env, files=files).access_key_id == "d"
    assert find(env={**env, **AWS_ENV}, files=files).access_key_id == "aws-id"
    assert find(env=env, files={**files, ".tigris/config.json": tigris_file(saved=SAVED)}).access_key_id == "tid_saved"


@pytest.mark.parametrize("files", [{}, {"/keys": "#\n"}])
def test_a_file_that_is_named_and_holds_no_key_is_as_good_as_none(files):
    with pytest.raises(CredentialsError, match=r"no credentials for https://t3\.storage\.dev"):
        find(env={"AWS_SHARED_CREDENTIALS_FILE": "/keys"}, files=files)
    assert find(LOCAL, env={"AWS_SHARED_CREDENTIALS_FILE": "/keys"}, files=files) is None


def test_off_tigris_the_choice_is_left_to_boto3():
    assert find(LOCAL, files={".aws/credentials": CREDENTIALS_FILE}) is None


def test_an_unknown_profile_is_an_error_that_names_the_files():
    with pytest.raises(ConfigError, match=r"no profile 'x' in /home/anna/\.aws/credentials or /home/anna/\.aws/config"):
        find(S3Config(profile="x"), AWS_ENV, {".aws/credentials": CREDENTIALS_FILE})


def test_aws_profile_without_any_aws_file_is_ignored():
    assert find(env={**AWS_ENV, "AWS_PROFILE": "ghost"}).access_key_id == "aws-id"


def test_a_profile_of_the_config_file_is_found():
    text = "[profile tigris]\naws_access_key_id = c\naws_secret_access_key = cs\naws_session_token = ct\n"
    found = find(S3Config(profile="tigris"), files={".aws/config": text})
    assert (found.access_key_id, found.session_token) == ("c", "ct")


def test_a_profile_without_a_static_key_is_left_to_boto3_by_name():
    found = find(S3Config(profile="sso"), files={".aws/config": "[profile sso]\nsso_session = corp\n"})
    assert (found.profile, found.access_key_id, found.anonymous) == ("sso", "", False)


@pytest.mark.parametrize("keys_in", [".aws/credentials", ".aws/config"])
def test_a_profile_that_is_a_role_is_left_to_boto3_wherever_its_own_keys_are(keys_in):
    """Mutation: requests are signed as the user who may only take the role on, as boto3 never would."""
    role = "[profile prod]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = prod\n"
    keys = "aws_access_key_id = base\naws_secret_access_key = b\n"
    files = (
        {".aws/config": role + keys} if keys_in == ".aws/config" else {".aws/config": role, keys_in: "[prod]\n" + keys}
    )
    found = find(S3Config(profile="prod"), files=files)
    assert (found.profile, found.access_key_id) == ("prod", "")


def test_the_aws_file_variables_are_honoured():
    env = {"AWS_SHARED_CREDENTIALS_FILE": "~/keys", "AWS_PROFILE": "work"}
    assert find(env=env, files={"keys": CREDENTIALS_FILE}).access_key_id == "w"


@pytest.mark.parametrize("env", [AWS_ENV, TIGRIS_ENV])
@pytest.mark.parametrize("kept", [0, 1])
def test_half_a_key_in_the_environment_is_an_error(env, kept):
    name, value = list(env.items())[kept]
    with pytest.raises(ConfigError, match=f"{name} is set but .* is not"):
        find(env={name: value})


def test_half_a_key_in_a_profile_is_an_error():
    with pytest.raises(ConfigError, match="half a key"):
        find(S3Config(profile="p"), files={".aws/credentials": "[p]\naws_access_key_id = only\n"})


def test_a_damaged_aws_file_is_an_error_of_one_line():
    with pytest.raises(ConfigError, match="credentials is damaged") as caught:
        find(S3Config(profile="p"), files={".aws/credentials": "not an ini file"})
    assert "\n" not in str(caught.value)


def test_a_key_of_the_environment_may_end_in_a_line_break():
    """As Secrets of Kubernetes do that were made with echo; in a volume's they were taken."""
    env = {"AWS_ACCESS_KEY_ID": "id\n", "AWS_SECRET_ACCESS_KEY": "secret\n", "AWS_SESSION_TOKEN": "token\n"}
    found = find(env=env)
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("id", "secret", "token")


def test_a_damaged_aws_file_is_not_quoted_in_a_traceback():
    """With --debug it was, and what --debug shows is what reports of faults are asked for."""
    text = "aws_secret_access_key = hush\n"
    with pytest.raises(ConfigError) as caught:
        find(S3Config(profile="p"), files={".aws/credentials": text})
    assert "hush" not in "".join(traceback.format_exception(caught.value, chain=True))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (tigris_file(saved=SAVED, temporary=TEMPORARY), "tid_temp"),
        (tigris_file(saved=SAVED), "tid_saved"),
        (tigris_file(saved=SAVED, temporary=None), "tid_saved"),
        (json.dumps({"credentials": SAVED}), "tid_saved"),
    ],
)
def test_both_schemas_of_the_tigris_file_are_read(document, expected):
    found = find(files={".tigris/config.json": document})
    assert (found.access_key_id, found.source) == (expected, "/home/anna/.tigris/config.json")


def test_a_browser_login_tells_to_create_a_key():
    document = json.dumps({"version": 2, "activeMethod": "oauth", "oauth": {"tokens": {"accessToken": "jwt"}}})
    with pytest.raises(ConfigError, match="tigris access-keys create"):
        find(files={".tigris/config.json": document})


def test_a_browser_login_does_not_disturb_other_stores():
    document = json.dumps({"activeMethod": "oauth", "oauth": {}})
    assert find(LOCAL, files={".tigris/config.json": document}) is None


@pytest.mark.parametrize(
    "document", ["[]", "null", '{"credentials": 3}', '{"credentials": {"saved": {"accessKeyId": 1}}}']
)
def test_a_tigris_file_of_another_shape_holds_no_key(document):
    with pytest.raises(ConfigError, match="no credentials"):
        find(files={".tigris/config.json": document})


def test_a_damaged_tigris_file_is_told_on_tigris_and_ignored_elsewhere():
    files = {".tigris/config.json": "{"}
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        find(files=files)
    assert find(LOCAL, files=files) is None


def test_anonymous_needs_no_key():
    found = find(S3Config(no_sign_request=True), AWS_ENV)
    assert (found.anonymous, found.source) == (True, "--no-sign-request")


def test_the_secret_is_never_shown():
    found = Credentials(source="x", access_key_id="id", secret_access_key="s3cr3t", session_token="t0k3n")
    assert "s3cr3t" not in repr(found)
    assert "t0k3n" not in repr(found)
    assert "id" in repr(found)


def test_files_are_read_and_missing_ones_are_none(tmp_path):
    (tmp_path / "there").write_text("text")
    assert read_text_file(tmp_path / "there") == "text"
    assert read_text_file(tmp_path / "missing") is None
    assert read_text_file(tmp_path / "there" / "below") is None


def test_an_unreadable_file_is_an_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_text_file(tmp_path / "binary")
    with pytest.raises(ConfigError, match=os.strerror(21)):
        read_text_file(tmp_path)


def test_a_secret_is_a_key_with_the_names_of_the_environment():
    secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_SESSION_TOKEN": "token"}
    found = credentials_in(secret, "the volume's secret")
    assert found == Credentials(
        source="the volume's secret", access_key_id="id", secret_access_key="hidden", session_token="token"
    )
    assert credentials_in({"AWS_ENDPOINT_URL": "http://s3"}, "the volume's secret") is None
    with pytest.raises(CredentialsError, match="set both or neither"):
        credentials_in({"AWS_ACCESS_KEY_ID": "id"}, "the volume's secret")


def test_a_user_without_a_home_or_a_name_has_a_place_to_look_in(monkeypatch):
    """As in a container that runs as a mere number. Mutation: RuntimeError, with a key in the environment, too."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", _unknown)
    assert home_directory() == Path("/")
    assert find_credentials(TIGRIS, AWS_ENV, home_directory(), read_text_file).access_key_id == "aws-id"


def _unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def test_a_tigris_file_that_cannot_be_read_is_told_on_tigris_and_ignored_elsewhere():
    """As where HOME is root's and the user is another. Mutation: a role's key is never looked for there."""

    def read_file(path: Path) -> str | None:
        raise CredentialsError(f"cannot read credentials from {path}: Permission denied")

    assert find_credentials(LOCAL, {}, HOME, read_file) is None
    with pytest.raises(CredentialsError, match="Permission denied"):
        find_credentials(TIGRIS, {}, HOME, read_file)
