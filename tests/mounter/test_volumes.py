from __future__ import annotations

import pytest

from tigrismount.errors import ConfigError
from tigrismount.mounter.volumes import DEFAULT_CACHE_DIR, OF_THE_NODE, Installation, resolve
from tigrismount.mounter.wire import Order

ENV = {"HOME": "/", "TIGRISMOUNT_METADATA_TTL": "5s"}


def order(options: dict[str, str] | None = None, **changes) -> Order:
    base = {"mount_id": "m", "source": "s3://models/llama", "mountpoint": "/volumes/m", "secret": {}}
    return Order(**{**base, "options": options or {}, **changes})


def test_a_volume_has_its_options_and_the_installation_its_defaults():
    config = resolve(order({"memory-limit": "64MiB", "block_size": "1MiB"}), Installation(environment=ENV))
    assert config.source == "s3://models/llama"
    assert config.mountpoint == "/volumes/m"
    assert config.blocks.memory_limit_bytes == 64 << 20
    assert config.vfs.metadata_ttl_s == 5
    assert [cache.directory for cache in config.disk_caches] == [DEFAULT_CACHE_DIR]


def test_a_volume_beats_the_installations_defaults():
    config = resolve(order({"metadata-ttl": "7s"}), Installation(environment=ENV))
    assert config.vfs.metadata_ttl_s == 7


@pytest.mark.parametrize("name", sorted(OF_THE_NODE))
def test_what_concerns_the_node_is_refused_and_not_ignored(name):
    with pytest.raises(ConfigError, match="not by a volume"):
        resolve(order({name.replace("_", "-"): "/etc"}), Installation(environment=ENV))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefetch": "auto,cache-dir=/etc"}, "without commas"),
        ({"prefetch": ""}, "without commas"),
        ({"no_allow_other": "on"}, "not by a volume"),
        ({"rw": "on"}, "unknown"),
        ({"nonempty": "on"}, "unknown"),
        ({"config": "/etc/passwd"}, "unknown"),
        ({"memory-limt": "1GiB"}, "did you mean memory_limit"),
        ({"memory-limit": "900TiB"}, "all mounts of this node"),
        ({"cache-dir": "/etc", "log-file": "/etc/x"}, "cache-dir.*log-file"),
    ],
)
def test_options_that_reach_for_more_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(order(options), Installation(environment=ENV))


def test_the_secret_may_name_the_endpoint_and_the_installation_may_insist_on_its_own():
    secret = {"AWS_ENDPOINT_URL": "http://theirs:9000"}
    environment = {**ENV, "AWS_ENDPOINT_URL_S3": "http://ours:9000"}
    assert resolve(order(secret=secret), Installation(environment=environment)).s3.endpoint_url == "http://theirs:9000"
    environment["TIGRISMOUNT_ENDPOINT_URL"] = "http://ours:9000"
    assert resolve(order(secret=secret), Installation(environment=environment)).s3.endpoint_url == "http://ours:9000"


@pytest.mark.parametrize(
    ("options", "secret"),
    [({"endpoint_url": "http://anybody:9000"}, {}), ({}, {"AWS_ENDPOINT_URL": "http://anybody:9000"})],
    ids=["option", "secret"],
)
def test_the_node_names_the_store_behind_its_own_endpoint_and_not_behind_a_volumes(options, secret):
    # Else whoever writes a volume has what his own server says taken for Tigris's: he could leave bytes in the cache
    # for everybody, and be served those of others whose keys and entity tags he knows.
    environment = {**ENV, "AWS_ENDPOINT_URL": "http://tag:8080", "TIGRISMOUNT_STORE_ID": "tigris"}
    config = resolve(order(options, secret=secret), Installation(environment=environment))
    assert (config.s3.endpoint_url, config.vfs.store_id) == ("http://anybody:9000", "http://anybody:9000")


@pytest.mark.parametrize("options", [{}, {"endpoint_url": "http://TAG:8080/"}], ids=["unsaid", "said again"])
def test_a_volume_at_the_nodes_own_endpoint_has_the_nodes_name_of_the_store(options):
    environment = {**ENV, "TIGRISMOUNT_ENDPOINT_URL": "http://tag:8080", "TIGRISMOUNT_STORE_ID": "tigris"}
    assert resolve(order(options), Installation(environment=environment)).vfs.store_id == "tigris"


def test_an_order_keeps_its_secret_out_of_what_is_printed():
    assert "hidden" not in repr(order(secret={"AWS_SECRET_ACCESS_KEY": "hidden"}))


def test_a_snapshot_stays_the_version_that_a_worker_before_has_found():
    asked = order({"snapshot": "latest"}, snapshot_version="1751631910000000000")
    assert resolve(asked, Installation(environment=ENV)).s3.snapshot_version == "1751631910000000000"


def test_a_mount_of_the_present_stays_one_though_the_node_names_a_snapshot_by_now(tmp_path):
    # Else each worker finds out anew what "latest" means, and names of several moments are believed for ever.
    environment = {**ENV, "TIGRISMOUNT_SNAPSHOT": "latest"}
    config = resolve(order(), Installation(environment=environment), has_served=True)
    assert (config.s3.snapshot, config.vfs.metadata_ttl_s) == (None, 5)
    assert resolve(order(), Installation(environment=environment)).s3.snapshot == "latest"
    found = order(snapshot_version="1751631910000000000")
    assert resolve(found, Installation(environment=environment), has_served=True).s3.snapshot == "latest"
    (tmp_path / "file").write_text('snapshot = "latest"\nnegative-ttl = "9s"\n')
    installation = Installation(environment=ENV, config_file=str(tmp_path / "file"))
    config = resolve(order(), installation, has_served=True)
    assert (config.s3.snapshot, config.vfs.metadata_ttl_s, config.vfs.negative_ttl_s) == (None, 5, 9)
    # Mutation: the snapshot that does not count still decides how long names are believed, whatever the volume says.
    config = resolve(order({"metadata-ttl": "0"}), installation, has_served=True)
    assert (config.s3.snapshot, config.vfs.metadata_ttl_s) == (None, 0)


def test_a_mount_that_has_served_is_not_refused_for_the_memory_of_the_node():
    """Mutation: a mounter without a free descriptor takes the memory for 1 GiB, and gives the mount up for good."""
    installation = Installation(environment={**ENV, "TIGRISMOUNT_MEMORY_LIMIT": "900TiB"})
    assert resolve(order(), installation, has_served=True).blocks.memory_limit_bytes == 900 << 40


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ({"memory-limit": "900TiB", "read_ahead": "1TiB"}, ENV),
        ({"memory-limit": "64MiB"}, {**ENV, "TIGRISMOUNT_BLOCK_SIZE": "64MiB"}),
    ],
    ids=["less memory", "larger blocks"],
)
def test_a_volume_that_has_served_goes_on_where_the_node_can_do_less(options, environment):
    """Mutation: to give the mounter's pod less memory ends the mounts of pods that run, at the next rollout."""
    installation = Installation(environment=environment)
    with pytest.raises(ConfigError, match=r"memory.limit"):
        resolve(order(options), installation)
    config = resolve(order({**options, "uid": "7"}), installation, has_served=True)
    assert config.blocks.memory_limit_bytes == resolve(order(), installation).blocks.memory_limit_bytes
    assert config.vfs.uid == 7
    with pytest.raises(ConfigError, match="did you mean"):
        resolve(order({**options, "metadata-tt": "7s"}), installation, has_served=True)
