"""The examples do what their pages say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import FakeTigris
from tigrismount.testing.mount import is_mounted, mounted, require_fuse
from tigrismount.testing.waiting import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = ("AWS_", "TIGRIS", "BUCKET_NAME", "MODEL_")


@pytest.fixture
def tigris():
    store = FakeTigris("tid_one")
    with serving(store.answer) as url:
        store.url = url
        yield store


@pytest.fixture
def env(tigris, tmp_path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "tid_one",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL_S3": tigris.url,
        "MODEL_BUCKET_NAME": "models",
        "MODEL_PATH": "org/model",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model"
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_bytes(b"{}")
    (path / "unet" / "weights.safetensors").write_bytes(b"w" * 1000)
    return path


def run(*command: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=120, check=False)


def upload(*arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, EXAMPLES / "upload-model" / "upload_model.py", *arguments, env=env)


def test_a_model_is_uploaded_index_last_and_then_frozen(tigris, env, model):
    ended = upload(model, "--create-bucket", "--snapshot", "release 7", env=env)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [request.key for request in tigris.operations("PutObject")][-1] == "org/model/model_index.json"
    listed = run("tigrismount", "snapshots", "models", "--json", env=env)
    (snapshot,) = json.loads(listed.stdout)["snapshots"]
    assert f"snapshot {snapshot['version']} (release 7)" in ended.stdout
    tree = run("tigrismount", "ls", "models/org/model", "--snapshot", "release 7", env=env).stdout
    assert [line.split()[-1] for line in tree.splitlines()] == ["model_index.json", "unet/"]


def test_a_model_can_be_all_that_a_bucket_holds(tigris, env, model):
    """Mutation: its keys begin with a slash, which no path can express: the mount of the bucket shows nothing."""
    tigris.create_bucket("models")
    assert upload(model, "--path", "/", env=env).returncode == 0
    assert [request.key for request in tigris.operations("PutObject")] == [
        "unet/weights.safetensors",
        "model_index.json",
    ]


def test_an_upload_that_cannot_be_frozen_says_so(tigris, env, model):
    tigris.create_bucket("models", snapshots=False)
    ended = upload(model, "--snapshot", "release-7", env=env)
    assert ended.returncode == 1
    assert "was not created with snapshots enabled" in ended.stderr


def test_an_empty_directory_is_no_model(env, tmp_path):
    (tmp_path / "nothing").mkdir()
    ended = upload(tmp_path / "nothing", env=env)
    assert (ended.returncode, "holds no files" in ended.stderr) == (1, True)


@pytest.fixture
def root(tmp_path, env):
    """Where a host shows its models; nothing stays mounted there."""
    require_fuse()
    path = tmp_path / "srv"
    yield path
    for version in path.glob("[0-9]*"):
        if is_mounted(str(version)):
            run("tigrismount", "unmount", "--lazy", version, env=env)


@pytest.mark.fuse
def test_a_fleet_moves_to_a_snapshot_and_back(tigris, env, root, tmp_path):
    tigris.create_bucket("models")
    versions = []
    for body in (b"one", b"two"):
        tigris.put("models", "weights", body)
        versions.append(tigris.take_snapshot("models"))
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("this-one\n")
    env = env | {"MODELS_ROOT": str(root), "SSH": str(ssh)}

    def roll(version: str) -> str:
        script = EXAMPLES / "fleet-snapshot" / "roll-fleet.sh"
        ended = run(script, tmp_path / "hosts", "s3://models", version, "--cache-dir=off", env=env)
        assert ended.returncode == 0, ended.stderr
        return run("cat", root / "current" / "weights", env=env).stdout

    assert [roll(version) for version in (*versions, versions[0])] == ["one", "two", "one"]
    assert [path.name for path in root.glob("[0-9]*")] == [versions[0]], "what nobody reads is unmounted"


def test_every_host_of_the_list_is_moved_the_last_one_too(env, tmp_path):
    """Mutation: a list without a line break at its end leaves its last host on the old version, and says nothing."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\ncat >/dev/null\necho "moved $1"\n')
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("one\n\ntwo")
    script = EXAMPLES / "fleet-snapshot" / "roll-fleet.sh"
    ended = run(script, tmp_path / "hosts", "s3://models", "1790000000000000000", env=env | {"SSH": str(ssh)})
    assert (ended.returncode, ended.stdout.split("\n")) == (0, ["one:", "moved one", "two:", "moved two", ""])


@pytest.mark.fuse
def test_a_version_whose_daemon_is_gone_is_mounted_again_and_let_go_of(tigris, env, root):
    """Mutation: mkdir fails on the dead mount, and rmdir too: neither the same version nor another one can be had."""
    tigris.create_bucket("models")
    tigris.put("models", "weights", b"one")
    old, new = tigris.take_snapshot("models"), tigris.take_snapshot("models")
    env = env | {"MODELS_ROOT": str(root)}

    def roll(version: str) -> None:
        ended = run(EXAMPLES / "fleet-snapshot" / "roll.sh", "s3://models", version, "--cache-dir=off", env=env)
        assert ended.returncode == 0, ended.stderr

    def kill() -> None:
        (mount,) = json.loads(run("tigrismount", "status", root / old, "--json", env=env).stdout)["mounts"]
        os.kill(mount["supervisor_pid"], signal.SIGKILL)
        os.kill(mount["pid"], signal.SIGKILL)
        wait_until(lambda: run("tigrismount", "health", root / old, env=env).returncode == 2)

    roll(old)
    kill()
    roll(old)
    assert run("cat", root / "current" / "weights", env=env).stdout == "one"
    kill()
    roll(new)
    assert [path.name for path in root.glob("[0-9]*")] == [new]


def test_what_cannot_be_taken_away_does_not_stop_a_roll_out(env, tmp_path):
    """As a directory that a program wrote into while nothing was mounted there.

    Mutation: the host is on the new version, and the others are left on the old one, each time.
    """
    command = tmp_path / "bin" / "tigrismount"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    (tmp_path / "srv" / "1600000000000000000" / "hub").mkdir(parents=True)
    env = env | {"MODELS_ROOT": f"{tmp_path}/srv", "PATH": f"{command.parent}:{env['PATH']}"}
    ended = run(EXAMPLES / "fleet-snapshot" / "roll.sh", "s3://models", "1790000000000000000", env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1:] == [f"{tmp_path}/srv/1600000000000000000 holds something, and stays"]
    assert os.readlink(tmp_path / "srv" / "current") == "1790000000000000000"


@pytest.mark.fuse
def test_another_model_of_the_same_snapshot_is_not_taken_for_the_one_that_is_mounted(tigris, env, root):
    """Mutation: 'current is VERSION', and whoever loads from it gets the model that was there before."""
    tigris.create_bucket("models")
    tigris.put("models", "llama/weights", b"one")
    tigris.put("models", "other/weights", b"two")
    version = tigris.take_snapshot("models")
    env = env | {"MODELS_ROOT": str(root)}

    def roll(source: str) -> subprocess.CompletedProcess[str]:
        return run(EXAMPLES / "fleet-snapshot" / "roll.sh", source, version, "--cache-dir=off", env=env)

    assert [roll(source).returncode for source in ("s3://models/llama", "t3://models/llama/")] == [0, 0]
    refused = roll("s3://models/other")
    assert (refused.returncode, "shows s3://models/llama, not s3://models/other" in refused.stderr) == (1, True)


@pytest.mark.fuse
def test_a_version_that_is_still_read_stays_until_the_next_time(tigris, env, root):
    tigris.create_bucket("models")
    tigris.put("models", "weights", b"one")
    old, new = tigris.take_snapshot("models"), tigris.take_snapshot("models")
    env = env | {"MODELS_ROOT": str(root)}
    (root / old).mkdir(parents=True)
    with mounted("s3://models", root / old, env, "--cache-dir=off", "--snapshot", old):
        reader = subprocess.Popen(["sleep", "60"], cwd=root / old)
        try:
            ended = run(EXAMPLES / "fleet-snapshot" / "roll.sh", "s3://models", new, "--cache-dir=off", env=env)
        finally:
            reader.kill()
            reader.wait()
    assert ended.returncode == 0, ended.stderr
    assert f"{root}/{old} is still in use" in ended.stdout
    assert os.readlink(root / "current") == new


def test_a_name_is_not_rolled_to(env, tmp_path):
    ended = run(
        EXAMPLES / "fleet-snapshot" / "roll.sh", "s3://models", "latest", env=env | {"MODELS_ROOT": str(tmp_path)}
    )
    assert (ended.returncode, "is no version" in ended.stderr) == (2, True)
    assert not (tmp_path / "current").exists()


def test_the_policy_allows_reading_and_nothing_else():
    policy = json.loads((EXAMPLES / "iam" / "model-reader.json").read_text())
    actions = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    assert actions == {"s3:GetObject", "s3:ListBucket", "s3:ListAllMyBuckets"}


def test_every_example_has_a_page_and_is_listed():
    index = (EXAMPLES / "README.md").read_text()
    for directory in (path for path in EXAMPLES.iterdir() if path.is_dir()):
        assert (directory / "README.md").is_file()
        assert f"({directory.name}/README.md)" in index
