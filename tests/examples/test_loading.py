"""The examples that load models, on real mounts of small ones; also type-checked as they are."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tigrismount.demo.command import CommandError, run_child, wait_until
from tigrismount.demo.model import plan_model, upload_model
from tigrismount.testing.mount import is_mounted, mounted, require_fuse

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MIB = 1 << 20


def require(*packages: str) -> None:
    """Skip without *packages*; in CI they must be there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"not installed: {', '.join(missing)}", pytrace=False)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (pip install --group loaders)")


@pytest.fixture
def env(s3, tmp_path) -> dict[str, str]:
    """As a user has it: the commands on the PATH, a store, and nothing to be fetched from a hub."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return s3.env() | {"PATH": path, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def flags(tmp_path) -> list[str]:
    require_fuse()
    (tmp_path / "mnt").mkdir()
    return [f"--cache-dir={tmp_path / 'cache'}", "--block-size=1MiB", "--memory-limit=64MiB"]


@pytest.fixture
def llama(bucket, flags, env, tmp_path):
    """A mounted language model of toy size, ``llama`` below the mountpoint."""
    upload_model(bucket.client, bucket.name, "llama", plan_model(40 * MIB, shard_bytes=12 * MIB))
    with mounted(f"s3://{bucket.name}", tmp_path / "mnt", env, *flags) as mount:
        yield mount


def test_each_example_is_type_checked(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install --group lint")
    scripts = sorted(EXAMPLES.glob("*/*.py"))
    assert {"service.py", "predict.py", "load_safetensors.py", "transformers_load.py"} <= {
        path.name for path in scripts
    }
    command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}", *map(str, scripts)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.fuse
def test_load_safetensors_reads_every_tensor(llama, env):
    script = EXAMPLES / "load-safetensors" / "load_safetensors.py"
    said = run_child(sys.executable, str(script), f"{llama.path}/llama", env=env).check().output
    assert re.match(r"\d+ tensors, 4\d\.\d MB in ", said)
    assert llama.status()["bytes"]["remote"] > 35 * MIB, "views were counted, and nothing was read"
    missing = run_child(sys.executable, str(script), f"{llama.path}/nothing", env=env)
    assert (missing.status, "holds no *.safetensors" in missing.errors) == (1, True)


@pytest.mark.fuse
def test_transformers_load_generates_from_the_mount(llama, env):
    require("torch", "transformers")
    script = str(EXAMPLES / "transformers-load" / "transformers_load.py")
    said = run_child(sys.executable, script, f"{llama.path}/llama", "--dtype=float32", env=env, timeout_s=200).check()
    assert re.search(r"loaded \d+\.\d M parameters", said.output)
    assert "generated 4 tokens" in said.output
    assert llama.status()["bytes"]["remote"] > 35 * MIB
    missing = run_child(sys.executable, script, "org/name", env=env, timeout_s=200)
    assert (missing.status, "is no directory; is it mounted?" in missing.errors) == (1, True)


def ask(port: int, path: str) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def answers(port: int) -> bool:
    try:
        return ask(port, "/healthz")[0] == 200
    except OSError:
        return False


@pytest.fixture
def service(env):
    """Start the FastAPI service for a model; returns its port."""
    require("fastapi", "uvicorn")
    started = []

    def start(model_dir: str, mountpoint: str) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
        env_of_it = env | {"MODEL_DIR": model_dir, "MOUNTPOINT": mountpoint}
        started.append(subprocess.Popen(command, cwd=EXAMPLES / "fastapi-service", env=env_of_it))
        assert wait_until(lambda: answers(port), timeout_s=60)
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.mark.fuse
def test_the_service_is_ready_once_loaded_and_tells_where_bytes_came_from(llama, service):
    port = service(f"{llama.path}/llama", llama.path)
    assert wait_until(lambda: ask(port, "/readyz")[0] == 200, timeout_s=60)
    status, said = ask(port, "/readyz")
    assert (status, said["loaded"], said["mount"]) == (200, True, f"{llama.path}: ok")
    status, found = ask(port, "/tensors/model.norm.weight")
    assert (status, len(found["shape"])) == (200, 1)
    assert ask(port, "/tensors/nothing")[0] == 404
    status, stats = ask(port, "/stats")
    assert status == 200
    assert stats["bytes"] == llama.status()["bytes"]
    assert stats["bytes"]["remote"] > 0
    assert stats["degraded"] == llama.status()["degraded"]


def test_the_service_lives_and_is_not_ready_without_a_mount(service, tmp_path):
    port = service(str(tmp_path / "llama"), str(tmp_path))
    assert wait_until(lambda: ask(port, "/readyz")[1]["error"] is not None)
    status, said = ask(port, "/readyz")
    assert (status, said["loaded"]) == (503, False)
    assert "is it mounted?" in said["error"]
    assert "not mounted" in said["mount"]
    assert ask(port, "/healthz")[0] == 200
    assert ask(port, "/stats")[0] == 503


def test_a_loaded_model_is_not_ready_where_its_mount_is_gone(service, tmp_path):
    save_file({"a": np.ones(4, "float32")}, tmp_path / "model.safetensors")
    port = service(str(tmp_path), str(tmp_path))
    assert wait_until(lambda: ask(port, "/readyz")[1]["loaded"])
    status, said = ask(port, "/readyz")
    assert (status, said["error"], "not mounted" in said["mount"]) == (503, None, True)
    assert ask(port, "/tensors/a") == (200, {"dtype": "float32", "shape": [4], "mean": 1.0})


BFLOAT16 = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'


@pytest.fixture
def bfloat16(tmp_path) -> Path:
    """A model as most language models are stored, which numpy has no type for."""
    header = BFLOAT16.ljust(64)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return tmp_path


def test_load_safetensors_says_what_bfloat16_needs(bfloat16, env):
    """Mutation: the first command of the page ends in a traceback."""
    script = EXAMPLES / "load-safetensors" / "load_safetensors.py"
    ended = run_child(sys.executable, str(script), str(bfloat16), env=env)
    assert (ended.status, ended.errors.count("\n")) == (1, 1)
    assert "--framework pt" in ended.errors


def test_the_service_says_why_it_never_gets_ready(bfloat16, service):
    """Mutation: ``/readyz`` has no error for as long as it is asked, and the log none either."""
    port = service(str(bfloat16), str(bfloat16))
    assert wait_until(lambda: ask(port, "/readyz")[1]["error"] is not None)
    assert "framework='pt'" in ask(port, "/readyz")[1]["error"]


def test_statistics_that_the_mount_does_not_tell_are_no_fault_of_the_service(service, env, tmp_path):
    """Mutation: 500, and a traceback, where the mount's daemon is gone or is another user's."""
    silent = {"mountpoint": "/m", "state": "unknown", "degraded": ["it belongs to user 5"], "bytes": {}, "loads": []}
    command = tmp_path / "bin" / "tigrismount"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\necho '{json.dumps({'mounts': [silent]})}'\n")
    command.chmod(0o755)
    env["PATH"] = f"{command.parent}:{env['PATH']}"
    port = service(str(tmp_path), "/m")
    assert ask(port, "/stats") == (503, {"detail": "it belongs to user 5"})


SLOW = """
import sys
from pathlib import Path

import service
from tigrismount.testing.waiting import wait_until

class Slow:
    dtype, shape = "float32", ()

    def mean(self, **_):
        Path("reading").touch()
        wait_until(Path("read").exists)
        return 1.0

service.weights["slow"] = Slow()
app = service.app
"""


def test_the_service_is_alive_while_weights_are_read(env, tmp_path):
    """Mutation: a store that is away stops the service with the first page that is not there, and gets it restarted."""
    require("fastapi", "uvicorn")
    (tmp_path / "slow.py").write_text(SLOW)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "slow:app", "--port", str(port), "--log-level", "warning"]
    path = os.pathsep.join([str(tmp_path), str(EXAMPLES / "fastapi-service"), str(ROOT)])
    env_of_it = env | {"MODEL_DIR": str(tmp_path / "none"), "PYTHONPATH": path}
    with subprocess.Popen(command, cwd=tmp_path, env=env_of_it) as serving, ThreadPoolExecutor() as pool:
        try:
            assert wait_until(lambda: answers(port), timeout_s=60)
            assert wait_until(lambda: ask(port, "/readyz")[1]["loaded"])
            asked = pool.submit(ask, port, "/tensors/slow")
            assert wait_until((tmp_path / "reading").exists)
            assert ask(port, "/healthz")[0] == 200
            (tmp_path / "read").touch()
            assert asked.result() == (200, {"dtype": "float32", "shape": [], "mean": 1.0})
        finally:
            (tmp_path / "read").touch()
            serving.terminate()


@pytest.mark.fuse
@pytest.mark.slow
def test_sdxl_is_served_through_the_mount_in_the_layout_of_the_template(bucket, env, tmp_path):
    require_fuse()
    require("torch", "transformers", "diffusers")
    tiny = Path(__file__).with_name("tiny_sdxl.py")
    run_child(sys.executable, str(tiny), str(tmp_path / "tiny"), env=env, timeout_s=200).check()
    env = env | {
        "MODEL_BUCKET_NAME": bucket.name,
        "MODEL_PATH": "org/Tiny-SDXL",
        "MODEL_CACHE_DIR": str(tmp_path / "mnt" / "tigris"),
        "TIGRISMOUNT_CACHE_DIR": str(tmp_path / "cache"),
        "TIGRISMOUNT_MEMORY_LIMIT": "64MiB",
    }
    upload = EXAMPLES / "upload-model" / "upload_model.py"
    run_child(sys.executable, str(upload), str(tmp_path / "tiny"), env=env).check()
    here = EXAMPLES / "sdxl-serving"
    picture = tmp_path / "image.png"
    predict = [sys.executable, str(here / "predict.py"), "abc", f"--output={picture}", "--size=16", "--steps=1"]

    try:
        ended = run_child(str(here / "start.sh"), *predict, env=env, timeout_s=250).check()
        assert is_mounted(env["MODEL_CACHE_DIR"])
        assert "setup took: " in ended.output
        assert picture.read_bytes().startswith(b"\x89PNG")
    finally:
        if is_mounted(env["MODEL_CACHE_DIR"]):
            run_child(sys.executable, "-m", "tigrismount", "unmount", env["MODEL_CACHE_DIR"], env=env).check()


def test_start_says_which_variable_is_missing(env):
    start = str(EXAMPLES / "sdxl-serving" / "start.sh")
    ended = run_child(start, "true", env=env)
    assert (ended.status != 0, "MODEL_BUCKET_NAME" in ended.errors) == (True, True)
    assert run_child(start, env=env).status == 2
    with pytest.raises(CommandError):
        run_child(start, "true", env=env | {"MODEL_BUCKET_NAME": "b"}).check()
