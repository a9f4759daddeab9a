from __future__ import annotations

import pytest

from tigrismount.config.merge import Setting, merge
from tigrismount.config.options import OPTIONS


def merged(*, flags=None, options=(), environment=None, file=None):
    return merge(
        flags=flags or {}, mount_options=options, environment=environment or {}, file=file or {}, file_name="m.toml"
    )


def test_the_stronger_source_wins_at_every_step():
    """flag > -o > TIGRISMOUNT_ > file > ecosystem."""
    layers = [
        ({"environment": {"AWS_ENDPOINT_URL": "http://e"}}, Setting("http://e", "env AWS_ENDPOINT_URL")),
        ({"file": {"endpoint-url": "http://d"}}, Setting("http://d", "m.toml: endpoint-url")),
        (
            {"environment": {"AWS_ENDPOINT_URL": "http://e", "TIGRISMOUNT_ENDPOINT_URL": "http://c"}},
            Setting("http://c", "env TIGRISMOUNT_ENDPOINT_URL"),
        ),
        ({"options": ["endpoint_url=http://b"]}, Setting("http://b", "-o endpoint_url")),
        ({"flags": {"endpoint_url": "http://a"}}, Setting("http://a", "--endpoint-url")),
    ]
    given: dict[str, object] = {}
    for addition, expected in layers:
        given |= addition
        assert merged(**given).settings["endpoint_url"] == expected


@pytest.mark.parametrize(
    ("environment", "winner"),
    [
        ({"TIGRIS_STORAGE_ENDPOINT": "http://c"}, "TIGRIS_STORAGE_ENDPOINT"),
        ({"TIGRIS_STORAGE_ENDPOINT": "http://c", "AWS_ENDPOINT_URL": "http://b"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://b", "AWS_ENDPOINT_URL_S3": "http://a"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_ENDPOINT_URL": "http://b", "AWS_ENDPOINT_URL_S3": ""}, "AWS_ENDPOINT_URL"),
    ],
)
def test_the_ecosystems_endpoint_variables_have_an_order(environment, winner):
    assert merged(environment=environment).settings["endpoint_url"].origin == f"env {winner}"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_all_its_names(option):
    """One table: flag, variable, TOML key in both spellings, -o name in both spellings."""
    assert option.help.endswith(".")
    assert merged(flags={option.key: "v"}).settings[option.key].value == "v"
    assert merged(environment={f"TIGRISMOUNT_{option.key.upper()}": "v"}).settings[option.key].value == "v"
    for name in (option.key, option.name):
        assert merged(file={name: "v"}).settings[option.key].value == "v"
        assert merged(options=[f"{name}=v"]).settings[option.key].value == "v"


def test_flags_that_were_not_given_say_nothing():
    assert merged(flags={"region": None, "cache_dir": ()}).settings == {}


def test_a_repeatable_mount_option_collects_and_a_flag_replaces():
    options = ["cache_dir=/a,cache-dir=/b", "cache_dir=/c"]
    assert merged(options=options).settings["cache_dir"].value == ["/a", "/b", "/c"]
    assert merged(options=options[:1], file={"cache_dir": "/x"}).settings["cache_dir"].value == ["/a", "/b"]
    assert merged(options=options, flags={"cache_dir": ("/d",)}).settings["cache_dir"].value == ("/d",)


def test_mount_options_are_lists_switches_and_values():
    result = merged(options=["allow_other,metadata-ttl=5m", "no_sign_request"])
    assert result.settings["allow_other"].value is True
    assert result.settings["metadata_ttl"].value == "5m"
    assert result.settings["no_sign_request"].value is True
    assert merged(options=["no_allow_other"]).settings["allow_other"].value is False
    assert not result.faults


def test_what_fstab_carries_for_others_is_ignored():
    result = merged(
        options=["ro,_netdev,nofail,noatime,defaults,x-systemd.automount,x-systemd.mount-timeout=60s,comment=a"]
    )
    assert (result.settings, result.faults) == ({}, [])


def test_nonempty_is_for_the_mount_itself():
    assert merged(options=["nonempty"]).nonempty
    assert not merged().nonempty


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("rw", "-o rw: this mount is read-only; leave rw out"),
        ("cache_sise=5G", "-o cache_sise=5G: unknown option (did you mean cache_size?)"),
        ("qwxz", "-o qwxz: unknown option"),
        ("cache_size", "-o cache_size: needs a value, cache_size=SIZE|PERCENT"),
        ("no_cache_size", "-o no_cache_size: unknown option (did you mean cache_size?)"),
    ],
)
def test_faults_in_mount_options_name_the_option(option, fault):
    assert merged(options=[option]).faults == [fault]


def test_unknown_keys_of_the_file_suggest_the_nearest():
    assert merged(file={"metadata_tll": 5}).faults == [
        "m.toml: unknown key 'metadata_tll' (did you mean metadata_ttl?)"
    ]


def test_a_key_that_is_there_in_both_spellings_is_a_fault():
    """Mutation: whichever stands last is taken, and nobody hears of the other."""
    for file in ({"cache_size": "1G", "cache-size": "2G"}, {"cache-size": "2G", "cache_size": "1G"}):
        assert merged(file=file).faults == ["m.toml: 'cache-size' and 'cache_size' are the same key; leave one out"]


def test_a_misspelt_variable_of_ours_is_a_warning_and_others_are_none():
    result = merged(environment={"TIGRISMOUNT_CACHE_SIZ": "1G", "TIGRISMOUNT_CONFIG": "x", "PATH": "/bin"})
    assert result.warnings == [
        "environment variable TIGRISMOUNT_CACHE_SIZ is not one of ours (did you mean TIGRISMOUNT_CACHE_SIZE?)"
    ]
