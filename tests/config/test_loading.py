from __future__ import annotations

import subprocess
import sys

import pytest

from tigrismount.config.loading import load
from tigrismount.errors import ConfigError


def loaded(*, source="s3://models", flags=None, options=(), config_file=None, environment=None, debug=False):
    return load(
        source=source,
        mountpoint="/m",
        flags=flags or {},
        mount_options=options,
        config_file=config_file,
        debug=debug,
        environment={"HOME": "/h", **(environment or {})},
    )


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mount.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_file_configures_a_mount_and_its_origin_is_kept(toml):
    path = toml('cache-dir = "off"\nmetadata_ttl = "5m"\nallow-other = false\nconcurrency = 8\n')
    config = loaded(config_file=path).config
    assert config.disk_caches == ()
    assert (config.vfs.metadata_ttl_s, config.allow_other, config.s3.concurrency) == (300.0, False, 9)
    assert config.origins["metadata_ttl"] == f"{path}: metadata_ttl"


@pytest.mark.parametrize(("key", "value"), [("source", "5"), ("mountpoint", '["/m"]')])
def test_a_place_that_is_no_text_is_a_fault_and_not_passed_over(toml, key, value):
    with pytest.raises(ConfigError, match=f"mount.toml: {key} = .*: expected text"):
        loaded(source=None, config_file=toml(f"{key} = {value}\n"), environment={"TIGRISMOUNT_SOURCE": "s3://models"})


def test_the_environment_may_name_the_file_and_the_source(toml):
    environment = {"TIGRISMOUNT_CONFIG": toml("max-retries = 3"), "BUCKET_NAME": "other"}
    config = loaded(source=None, environment=environment).config
    assert (config.s3.max_retries, config.source) == (3, "s3://other")
    assert config.origins["source"] == "env BUCKET_NAME"


def test_all_faults_come_in_one_message(toml):
    path = toml("metadata_tll = 5\n")
    with pytest.raises(ConfigError) as caught:
        loaded(source="Bad", flags={"verify": "x"}, options=["rw"], config_file=path)
    for part in ("source 'Bad'", "--verify 'x'", "-o rw", "metadata_tll"):
        assert part in caught.value.detail


@pytest.mark.parametrize(("text", "reason"), [("a = ", "is not TOML"), ("a = 1\na = 2", "is not TOML")])
def test_a_file_that_is_no_toml_is_named(toml, text, reason):
    path = toml(text)
    with pytest.raises(ConfigError, match=f"{path}: {reason}"):
        loaded(config_file=path)


@pytest.mark.parametrize("source", [None, "s3://", "t3://"])
def test_all_buckets_take_the_place_of_a_source_whatever_the_environment_names(source):
    config = loaded(source=source, flags={"all_buckets": True}, environment={"BUCKET_NAME": "models"}).config
    assert (config.source, config.vfs.bucket, config.vfs.prefix) == ("s3://", "", "")
    assert config.report()["all_buckets"] == {"value": True, "from": "--all-buckets"}
    assert loaded().config.report()["all_buckets"]["value"] is False


def test_all_buckets_contradict_a_source_and_a_snapshot():
    with pytest.raises(ConfigError, match=r"'s3://models': contradicts --all-buckets"):
        loaded(flags={"all_buckets": True})
    with pytest.raises(ConfigError, match=r"--snapshot 'latest': is a snapshot of one bucket"):
        loaded(source=None, flags={"all_buckets": True, "snapshot": "latest"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        loaded(config_file=str(tmp_path / "missing.toml"))


def test_debug_lowers_the_log_level_unless_told():
    assert loaded(debug=True).config.log_level == "debug"
    assert loaded(debug=True, flags={"log_level": "error"}).config.log_level == "error"


def test_importing_the_configuration_loads_no_engine():
    """--help must be fast and must not need libfuse."""
    code = "import sys, tigrismount.config.loading; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"trio", "pyfuse3", "boto3", "botocore", "lmdb", "click", "tomllib"} & set(modules)


def test_one_word_is_the_mountpoint_and_the_message_says_so():
    with pytest.raises(ConfigError, match="no source to mount on /m: name a bucket before it, or set BUCKET_NAME"):
        loaded(source=None)
    assert loaded(source=None, flags={"all_buckets": True}).config.source == "s3://"
