from __future__ import annotations

import dataclasses
import json
import math

import pytest

from tigrismount.config.host import DiskSpace
from tigrismount.config.merge import Setting
from tigrismount.config.model import MountConfig
from tigrismount.config.resolve import check_places, resolve, validate
from tigrismount.config.source import parse_source
from tigrismount.errors import ConfigError

MIB = 1 << 20


@pytest.fixture
def resolved(user_host, disk_space):
    """Resolve written values on a plain user's machine, or on a changed one."""

    def make(environment=None, **written) -> MountConfig:
        names = ("uid_of_host", "memory_bytes", "cores", "fuse_patience_s")
        facts = {key: written.pop(key) for key in list(written) if key in names}
        host = dataclasses.replace(
            user_host,
            uid=facts.get("uid_of_host", user_host.uid),
            memory_bytes=facts.get("memory_bytes", user_host.memory_bytes),
            cores=facts.get("cores", user_host.cores),
            fuse_patience_s=facts.get("fuse_patience_s", user_host.fuse_patience_s),
        )
        values, faults = validate({key: Setting(value, f"--{key}") for key, value in written.items()})
        assert faults == []
        return resolve(
            values,
            {key: f"--{key}" for key in written},
            source=parse_source("s3://models/llama"),
            mountpoint="/models",
            nonempty=False,
            debug=False,
            host=host,
            disk_space=disk_space,
            environment=environment or {},
        )

    return make


def test_defaults_need_no_configuration(resolved):
    config = resolved()
    assert config.s3.endpoint_url == "https://t3.storage.dev"
    assert (config.s3.region, config.s3.request_timeout_s, config.s3.concurrency) == ("auto", 300.0, 216)
    assert (config.vfs.bucket, config.vfs.prefix, config.vfs.store_id) == ("models", "llama/", "tigris")
    assert (config.vfs.metadata_ttl_s, config.vfs.negative_ttl_s) == (60.0, 5.0)
    assert (config.vfs.uid, config.vfs.gid, config.vfs.file_mode, config.vfs.dir_mode) == (1000, 100, 0o444, 0o555)
    assert config.disk_caches[0].directory == "/home/ann/.cache/tigrismount"
    assert config.disk_caches[0].verify == "once"
    assert (config.fsname, config.source, config.mountpoint) == ("s3://models/llama",) * 2 + ("/models",)
    assert config.kernel_read_ahead_kib == 4096
    assert config.log_level == "info"


@pytest.mark.parametrize(
    ("written", "limit_bytes_s", "gets"),
    [
        ({"bandwidth": "1MiB"}, MIB, 2),
        ({"bandwidth": "40MiB"}, 40 * MIB, 10),
        ({"bandwidth": "1GiB"}, 1024 * MIB, 192),
        ({"bandwidth": "1MiB", "concurrency": "16"}, MIB, 16),
    ],
)
def test_a_limited_bandwidth_is_shared_by_few_gets(resolved, written, limit_bytes_s, gets):
    config = resolved(**written)
    assert (config.s3.bandwidth_bytes_s, config.blocks.concurrency) == (limit_bytes_s, gets)


@pytest.mark.parametrize(
    ("written", "gets"),
    [
        ({"memory_limit": "128MiB"}, 32),
        ({"memory_limit": "1GiB"}, 96),
        ({"memory_limit": "1GiB", "block_size": "16MiB"}, 48),
        ({"memory_limit": "1GiB", "block_size": "1MiB"}, 96),
        ({"memory_limit": "64GiB"}, 256),
        ({"memory_limit": "64GiB", "concurrency": "500"}, 500),
        ({"memory_limit": "64GiB", "concurrency": "3"}, 3),
    ],
)
def test_gets_are_bounded_by_the_memory_they_fill_and_by_a_number_that_is_given(resolved, written, gets):
    config = resolved(**written)
    assert (config.blocks.concurrency, config.s3.concurrency) == (gets, gets + max(1, gets // 8))


@pytest.mark.parametrize(
    ("memory_bytes", "limit_bytes", "read_ahead_bytes"),
    [
        (128 * MIB, 32 * MIB, 16 * MIB),
        (256 * MIB, 48 * MIB, 24 * MIB),
        (512 * MIB, 176 * MIB, 104 * MIB),
        (1024 * MIB, 256 * MIB, 152 * MIB),
        (4096 * MIB, 1024 * MIB, 512 * MIB),
        (1 << 40, 2048 * MIB, 512 * MIB),
    ],
)
def test_memory_limits_follow_the_memory(resolved, memory_bytes, limit_bytes, read_ahead_bytes):
    """A quarter within 256 MiB and 2 GiB, less in small groups; read-ahead is 60 % of it, at most 512 MiB."""
    config = resolved(memory_bytes=memory_bytes)
    assert config.blocks.memory_limit_bytes == limit_bytes
    assert config.reader.read_ahead_bytes == read_ahead_bytes


def test_large_blocks_raise_the_least_memory(resolved):
    assert resolved(memory_bytes=1 << 29, block_size="64MiB").blocks.memory_limit_bytes == 256 * MIB


@pytest.mark.parametrize(
    ("written", "size_gib"),
    [
        ({}, 800),
        ({"cache_free": "30%"}, 700),
        ({"cache_size": "50%"}, 500),
        ({"cache_size": "99%"}, 950),
        ({"cache_size": "20G"}, 20),
    ],
)
def test_cache_size_is_a_share_of_its_filesystem_under_the_free_floor(resolved, written, size_gib):
    assert resolved(**written).disk_caches[0].size_bytes == pytest.approx(size_gib << 30, abs=1)


@pytest.mark.parametrize("written", [["/a", "/b", "/a"], "/a:/b", ["/a:/b"], ("/a", "/x/../b")])
@pytest.mark.parametrize(
    ("size", "devices", "sizes_gib"),
    [("50%", (1, 2), (50, 150)), ("40G", (1, 2), (10, 30)), ("50%", (1, 1), (25, 75))],
)
def test_several_cache_directories_share_the_size_by_their_disks(
    resolved, disk_space, written, size, devices, sizes_gib
):
    """Two on one disk are not two disks."""
    disk_space.spaces = {
        path: DiskSpace(usable_bytes=usable_gib << 30, free_bytes=0, device=device)
        for path, usable_gib, device in zip(("/a", "/b"), (100, 300), devices, strict=True)
    }
    config = resolved(cache_dir=written, cache_size=size)
    assert [cache.directory for cache in config.disk_caches] == ["/a", "/b"]
    assert tuple(cache.size_bytes >> 30 for cache in config.disk_caches) == sizes_gib
    assert config.disk_caches[1].weight == 3 * config.disk_caches[0].weight
    assert MountConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.report()["cache_dir"]["value"] == ["/a", "/b"]


def test_every_cache_directory_must_hold_a_block():
    settings = {"cache_dir": Setting(["a", "b"], "x"), "cache_size": Setting("8MiB", "y")}
    _, [fault] = validate(settings)
    assert fault.startswith("y = '8MiB': is less than one block")


def test_the_disk_is_asked_about_the_cache_directory_only(resolved, disk_space):
    resolved(cache_dir="nvme/cache")
    resolved(cache_dir="off")
    assert disk_space.asked == ["/cwd/nvme/cache"]


def test_root_has_the_systems_cache_and_lets_others_in(resolved):
    assert resolved(uid_of_host=0).disk_caches[0].directory == "/var/cache/tigrismount"
    assert resolved(uid_of_host=0).allow_other
    assert not resolved(uid_of_host=0, allow_other=False).allow_other
    assert not resolved().allow_other


def test_the_disk_cache_can_be_off(resolved):
    assert resolved(cache_dir="off").disk_caches == ()
    assert resolved(cache_dir=False).disk_caches == ()
    assert resolved(cache_dir=("a", "off")).disk_caches == ()
    assert len(resolved(cache_dir=("a", "off", "b", "c")).disk_caches) == 2


@pytest.mark.parametrize(
    ("path", "absolute"),
    [("/nvme/../x", "/x"), ("nvme", "/cwd/nvme"), ("~/c", "/home/ann/c"), ("~", "/home/ann"), ("~x", "/cwd/~x")],
)
def test_paths_are_absolute(resolved, path, absolute):
    """The daemon leaves the working directory."""
    config = resolved(cache_dir=path, log_file=path, ca_bundle=path)
    assert (config.disk_caches[0].directory, config.log_file, config.s3.ca_bundle) == (absolute,) * 3


@pytest.mark.parametrize(
    ("endpoint", "environment", "region"),
    [
        ("https://t3.storage.dev", {"AWS_REGION": "eu-west-1"}, "auto"),
        ("http://tag:8080", {"AWS_REGION": "eu-west-1"}, "auto"),
        ("https://s3.eu-west-1.amazonaws.com", {"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ("https://s3.amazonaws.com", {"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ("https://s3.amazonaws.com", {}, "us-east-1"),
        ("https://s3.cn-north-1.amazonaws.com.cn", {"AWS_REGION": "cn-north-1"}, "cn-north-1"),
    ],
)
def test_awss_region_counts_for_aws_only(resolved, endpoint, environment, region):
    assert resolved(environment, endpoint_url=endpoint).s3.region == region


def test_deadlines_follow_the_request_timeout(resolved):
    config = resolved(request_timeout="10s")
    assert (config.s3.request_timeout_s, config.s3.metadata_timeout_s) == (10.0, 10.0)
    assert config.fuse.request_deadline_s == 40.0


def test_deadlines_stay_below_the_one_after_which_the_kernel_ends_the_mount(resolved):
    """Mutation: a store that is away for longer than that costs the mount, where it may cost a read."""
    config = resolved(fuse_patience_s=60.0)
    assert (config.s3.request_timeout_s, config.fuse.request_deadline_s) == (30.0, 45.0)
    config = resolved(fuse_patience_s=60.0, request_timeout="10s")
    assert (config.s3.request_timeout_s, config.fuse.request_deadline_s) == (10.0, 40.0)


@pytest.mark.parametrize(
    ("written", "kib"), [({}, 4096), ({"kernel_read_ahead": "auto"}, 4096), ({"kernel_read_ahead": 0}, None)]
)
def test_kernel_read_ahead_can_be_left_alone(resolved, written, kib):
    assert resolved(**written).kernel_read_ahead_kib == kib


def test_anonymous_requests_need_no_profile(resolved):
    _, faults = validate(
        {"no_sign_request": Setting(True, "--no-sign-request"), "profile": Setting("p", "env AWS_PROFILE")}
    )
    assert faults == []
    assert resolved(no_sign_request=True).s3.profile is None


def test_a_store_can_be_named(resolved):
    """A gateway in front of Tigris shares its cache entries then."""
    assert resolved(endpoint_url="http://tag:8080").vfs.store_id == "http://tag:8080"
    assert resolved(endpoint_url="http://tag:8080", store_id="tigris").vfs.store_id == "tigris"


@pytest.mark.parametrize("written", [{}, {"metadata_ttl": "inf", "negative_ttl": 0}, {"cache_dir": "off", "uid": 5}])
def test_json_carries_everything_there_and_back(resolved, written):
    config = resolved(**written)
    text = json.dumps(config.to_json(), allow_nan=False)
    assert MountConfig.from_json(json.loads(text)) == config


@pytest.mark.parametrize("change", [{"new_member": 1}, {"s3": {"new_member": 1}}, {"disk_caches": 5}])
def test_json_of_another_version_is_refused(resolved, change):
    with pytest.raises(ConfigError, match="another version"):
        MountConfig.from_json(resolved().to_json() | change)
    with pytest.raises(ConfigError, match="another version"):
        MountConfig.from_json({})


def test_json_of_a_later_version_may_have_what_is_at_its_default(resolved):
    """Mutation: the first crash of a worker behind a downgrade ends the mount, as no other one starts."""
    data = json.loads(json.dumps(resolved().to_json()))
    assert data["defaults"]["s3.snapshot_version"] is None
    assert data["defaults"]["disk_caches.verify"] == "once"
    assert MountConfig.from_json({name: value for name, value in data.items() if name != "defaults"}) == resolved()
    data["lane"] = data["defaults"]["lane"] = {"width": 4}
    data["s3"]["colour"] = data["defaults"]["s3.colour"] = "blue"
    data["disk_caches"][0]["colour"] = data["defaults"]["disk_caches.colour"] = None
    assert MountConfig.from_json(data) == resolved()
    for part in (data, data["s3"], data["disk_caches"][0]):
        name = "lane" if part is data else "colour"
        before, part[name] = part[name], "red"
        with pytest.raises(ConfigError, match="another version"):
            MountConfig.from_json(data)
        part[name] = before


def test_the_report_names_every_value_and_its_origin(resolved):
    """``status`` shows it."""
    from tigrismount.config.options import BY_KEY

    report = resolved(metadata_ttl="inf").report()
    assert set(report) == set(BY_KEY)
    assert report["metadata_ttl"] == {"value": "inf", "from": "--metadata_ttl"}
    assert report["file_mode"] == {"value": "0444", "from": "default"}
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint_url", "t3.storage.dev"),
        ("endpoint_url", "ftp://x"),
        ("endpoint_url", "https://"),
        ("endpoint_url", "https://x:99999"),
        ("endpoint_url", "https://x:port"),
        ("endpoint_url", "https://x?y"),
        ("endpoint_url", "https://[::1"),
        ("region", ""),
        ("region", "a\nb"),
        ("addressing", "dns"),
        ("request_timeout", "inf"),
        ("request_timeout", "0"),
        ("max_retries", "-1"),
        ("cache_dir", ""),
        ("cache_dir", True),
        ("cache_dir", ["a", True]),
        ("cache_dir", "a:"),
        ("cache_dir", 5),
        ("cache_free", "96%"),
        ("block_size", "3MiB"),
        ("block_size", "512KiB"),
        ("block_size", "128MiB"),
        ("memory_limit", "1MiB"),
        ("bandwidth", "1000"),
        ("fetch_processes", "-1"),
        ("fetch_processes", "many"),
        ("concurrency", "0"),
        ("concurrency", 1.5),
        ("concurrency", True),
        ("prefetch", "on"),
        ("kernel_read_ahead", "off"),
        ("verify", True),
        ("uid", "root"),
        ("file_mode", "999"),
        ("file_mode", "7777"),
        ("dir_mode", 0o7777),
        ("allow_other", "maybe"),
        ("log_level", "loud"),
    ],
)
def test_a_bad_value_is_a_fault_that_names_its_place(key, value):
    _, [fault] = validate({key: Setting(value, "env THERE")})
    assert fault.startswith("env THERE = ")
    assert "expected" in fault


@pytest.mark.parametrize("key", ["endpoint_url", "region", "profile"])
def test_a_line_break_at_the_end_is_no_part_of_a_text(key):
    """As keys of the environment are taken, and as a volume's Secret is, whose endpoint stands beside its key."""
    written = "http://tag:8080"
    values, faults = validate({key: Setting(f"{written}\n", f"env {key}")})
    assert (values, faults) == ({key: written}, [])
    assert validate({key: Setting(f"{written}\n{written}", f"env {key}")})[1]


def test_all_faults_are_found_at_once():
    settings = {
        "verify": Setting("x", "--verify"),
        "uid": Setting("y", "-o uid"),
        "region": Setting("auto", "--region"),
    }
    _, faults = validate(settings)
    assert faults == [
        "--verify 'x': expected one of always, once, off",
        "-o uid 'y': expected a whole number from 0 to 4294967294",
    ]


def test_credentials_in_an_endpoint_are_refused_and_not_repeated():
    _, [fault] = validate({"endpoint_url": Setting("https://key:tsec_secret@host", "--endpoint-url")})
    assert "tsec_secret" not in fault


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"memory_limit": "64MiB", "block_size": "32MiB"}, "needs room for 4 blocks"),
        ({"memory_limit": "64MiB", "read_ahead": "1G"}, "more than --memory-limit"),
        ({"cache_size": "1MiB"}, "less than one block"),
        ({"no_sign_request": True, "profile": "p"}, "contradicts --no_sign_request"),
    ],
)
def test_contradictions_are_faults(written, fault):
    _, [found] = validate({key: Setting(value, f"--{key}") for key, value in written.items()})
    assert fault in found


def test_toml_writes_modes_and_sizes_as_numbers(resolved):
    config = resolved(file_mode=0o440, block_size=4 << 20, metadata_ttl=1.5)
    assert (config.vfs.file_mode, config.blocks.block_bytes, config.vfs.metadata_ttl_s) == (0o440, 4 << 20, 1.5)
    assert resolved(metadata_ttl=math.inf).vfs.metadata_ttl_s == math.inf


def test_a_snapshot_trusts_every_name_for_ever_whatever_else_is_written(resolved):
    config = resolved(snapshot="release-7", metadata_ttl="5s")
    assert (config.vfs.metadata_ttl_s, config.vfs.negative_ttl_s) == (math.inf, math.inf)
    assert (config.s3.snapshot, config.s3.snapshot_version) == ("release-7", None)
    report = config.report()
    assert report["metadata_ttl"] == {"value": "inf", "from": "--snapshot"}
    assert report["negative_ttl"] == {"value": "inf", "from": "--snapshot"}
    assert MountConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_tigris_headers_are_off_unless_asked_for(resolved):
    assert (resolved().s3.consistent, resolved().s3.tigris_prefetch, resolved().s3.snapshot) == (False, False, None)
    s3 = resolved(consistent="on", tigris_prefetch=True).s3
    assert (s3.consistent, s3.tigris_prefetch) == (True, True)


@pytest.mark.parametrize(
    "selector", ["latest", "now", "my release", "2026-07-01", "1751631910196672425", 1751631910196672425]
)
def test_snapshots_by_keyword_name_version_or_time(resolved, selector):
    assert resolved(snapshot=selector).s3.snapshot == str(selector)


@pytest.mark.parametrize(
    "selector", ["", "a\nb", "x" * 256, True, 1.5, "2026-07-01T12:00:00", "2026-02-30T12:00:00Z", "2026-07-01T12Z"]
)
def test_malformed_snapshots_are_faults(selector):
    _, faults = validate({"snapshot": Setting(selector, "--snapshot")})
    assert len(faults) == 1
    assert faults[0].startswith("--snapshot")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"cache_dir": "/models"}, "--cache_dir: /models: lies under"),
        ({"cache_dir": ["/nvme", "/models/cache"]}, "--cache_dir: /models/cache: lies under"),
        ({"log_file": "/models/../models/x.log"}, "--log_file: /models/x.log: lies under"),
    ],
)
def test_nothing_is_kept_where_the_mount_would_cover_it(resolved, written, said):
    with pytest.raises(ConfigError, match=said):
        check_places(resolved(**written))


def test_what_lies_beside_the_mountpoint_is_not_covered(resolved):
    check_places(resolved(cache_dir="/models-cache", log_file="/var/log/models"))
    check_places(resolved(cache_dir="off"))


@pytest.mark.parametrize(
    ("written", "processes"),
    [
        ({}, 0),
        ({"cores": 2.0}, 0),
        ({"cores": 3.9}, 0),
        ({"cores": 4.0}, 1),
        ({"cores": 16.0}, 4),
        ({"cores": 192.0}, 4),
        ({"cores": 192.0, "memory_bytes": 2 << 30}, 2),
        ({"cores": 192.0, "bandwidth": "100MiB"}, 0),
        ({"cores": 4.0, "endpoint_url": "http://tag:8080"}, 0),
        ({"cores": 192.0, "endpoint_url": "http://tag:8080"}, 2),
        ({"cores": 192.0, "fetch_processes": "0"}, 0),
        ({"fetch_processes": "3"}, 3),
        ({"fetch_processes": "auto", "cores": 8.0}, 2),
    ],
)
def test_processes_fetch_where_there_are_cores_for_them(resolved, written, processes):
    assert resolved(**written).s3.fetch_processes == processes
