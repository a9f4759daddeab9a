"""A node of Kubernetes in containers: the driver, the mounter without privilege, and a pod that reads all the while.

The kubelet is the tests' own; what it does when a container ends, starting it again, is done by these tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.fake_kubelet import FakeKubelet, Registrar, Volume

from .conftest import Container
from .test_running import HARDENED

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.fuse]

DRIVER = "csi.tigrismount.io"
BODY = np.random.Generator(np.random.PCG64(9)).bytes(64 << 20)
MOUNTER_LIMIT = "768m"
WORST_S = 5.0

READER = """
import hashlib, json, mmap, os, random, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
size = os.path.getsize(path)
fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # past the page cache: each read is the mount's to answer
want = {}
with open(path, "rb", buffering=0) as file:
    for start in range(0, size, 1 << 20):
        want[start] = hashlib.sha256(file.read(1 << 20)).digest()
buffer, reads, wrong, errors, worst_s = mmap.mmap(-1, 1 << 20), 0, 0, [], 0.0
print("reading", flush=True)
end_s = time.monotonic() + seconds
while time.monotonic() < end_s:
    start = random.choice(list(want))
    began_s = time.monotonic()
    try:
        count = os.preadv(fd, [buffer], start)
        wrong += hashlib.sha256(buffer[:count]).digest() != want[start]
        fresh = os.open(path, os.O_RDONLY)
        os.close(fresh)
        os.listdir(os.path.dirname(path))
    except OSError as error:
        errors.append(error.errno)
    worst_s = max(worst_s, time.monotonic() - began_s)
    reads += 1
print(json.dumps({"reads": reads, "wrong": wrong, "errors": errors, "worst_s": worst_s}), flush=True)
"""


@dataclass
class Node:
    """A node with the driver."""

    directory: Path
    driver: Container
    mounter: Container
    kubelet: FakeKubelet

    def is_settled(self, volume: Volume, target: str, connections: int) -> bool:
        """Whether the two halves have met so many times, and the volume is well."""
        if self.mounter.log().count("connected to the driver") < connections:
            return False
        try:
            return not self.kubelet.stats(volume.volume_id, target).volume_condition.abnormal
        except grpc.RpcError:  # the driver is not there yet
            return False

    @contextlib.contextmanager
    def reading(self, target: str, name: str, seconds: float) -> Iterator[dict]:
        """A pod that reads for a while; in the end the dictionary says how that went."""
        flags = (*HARDENED, "--user=1234:1234", f"--volume={target}:/models:rslave", "--entrypoint=python")
        found: dict = {}
        with self.driver.engine.started(*flags, "--", "-c", READER, f"/models/{name}", seconds) as pod:
            assert wait_until(lambda: "reading" in pod.log(), timeout_s=60), pod.log()
            yield found
            assert wait_until(lambda: "worst_s" in pod.log(), timeout_s=seconds + 60), pod.log()
            found.update(json.loads(pod.log().strip().splitlines()[-1]))


def assert_can_do_nothing(mounter: Container) -> None:
    """The workers have no capability and no way to one, and there is no device: the connection was passed to them."""
    (worker,) = workers(mounter)
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert set(status["Uid"]) == {"10001"}
    assert {int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == ["1"]
    assert mounter.status_of("test", "-e", "/dev/fuse") == 1


def restart(container: Container) -> None:
    """Kill a container and start it, as a kubelet does."""
    container.engine("podman", "kill", container.name)
    container.engine("podman", "wait", container.name)
    container.engine("podman", "start", container.name)


@pytest.fixture
def node(image) -> Iterator[Node]:
    """The two containers as the manifests have them, on a directory that stands for /var/lib/kubelet."""
    root = Path(tempfile.mkdtemp(prefix="tgm-", dir="/tmp"))  # pytest's own are too long for the name of a socket
    kubelet, comm = root / "kubelet", root / "comm"
    plugin = kubelet / "plugins" / DRIVER
    for path in (plugin, kubelet / "plugins_registry", comm):
        path.mkdir(parents=True)
    comm.chmod(0o755)  # as the kubelet makes a hostPath
    subprocess.run(["mount", "--bind", str(kubelet), str(kubelet)], check=True)
    subprocess.run(["mount", "--make-shared", str(kubelet)], check=True)
    csi_flags = ("--privileged", "--user=0", "--read-only", "--tmpfs=/tmp", f"--volume={comm}:/comm")
    csi_volumes = (f"--volume={kubelet}:{kubelet}:rshared",)
    csi = ["csi", f"--endpoint=unix://{plugin}/csi.sock", "--node-id=node-1", f"--driver-name={DRIVER}"]
    csi += [f"--state-dir={plugin}/state", "--comm-dir=/comm", "--mounter-uid=10001"]
    mounter_flags = (*HARDENED, f"--memory={MOUNTER_LIMIT}", f"--volume={comm}:/comm", "--volume=/cache")
    mounter = ("mounter", "--comm-dir=/comm", "--cache-dir=/cache/node", "--cache-size=1GiB")
    memory = "--env=TIGRISMOUNT_MEMORY_LIMIT=128MiB"
    try:
        with (
            image.started(*csi_flags, *csi_volumes, "--", *csi) as driver,
            image.started(*mounter_flags, memory, "--", *mounter) as serving,
        ):
            assert wait_until((plugin / "csi.sock").exists, timeout_s=30), driver.log()
            registrar = Registrar(kubelet / "plugins_registry", str(plugin / "csi.sock"))
            try:
                with FakeKubelet.registering(kubelet, registrar.path) as asking:
                    yield Node(kubelet, driver, serving, asking)
            except BaseException:
                print(driver.log(), serving.log())
                raise
            finally:
                registrar.stop()
    finally:
        with open("/proc/self/mountinfo") as file:
            below = [line.split()[4] for line in file if line.split()[4].startswith(f"{kubelet}/")]
        for place in [*reversed(below), str(kubelet)]:
            subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def volume(bucket, s3) -> Volume:
    """A volume in a pod, with a key of its own."""
    bucket.put("llama/weights", BODY)
    env = s3.env()
    keys = {name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    attributes = {"bucket": bucket.name, "prefix": "llama", "endpoint": env["AWS_ENDPOINT_URL_S3"], "blockSize": "1Mi"}
    return Volume("csi-" + 64 * "a", attributes, keys, is_inline=True)


def test_readers_see_no_error_when_the_mounter_is_killed_twice_and_the_driver_once(node, volume):
    target = node.kubelet.target("pod-1")
    node.kubelet.publish(volume, target)
    assert_can_do_nothing(node.mounter)
    with node.reading(target, "weights", 30) as found:
        for connections, container in enumerate((node.mounter, node.driver, node.mounter), 2):
            restart(container)
            # One after the other: a mount is lost when both of those who hold it go at once.
            settled = partial(node.is_settled, volume, target, connections)
            assert wait_until(settled, timeout_s=30), node.mounter.log() + node.driver.log()
    print(found)
    assert found["errors"] == []
    assert found["wrong"] == 0
    assert found["worst_s"] < WORST_S
    node.kubelet.unpublish(volume.volume_id, target)
    assert not os.path.lexists(target)


HOG = """
import sys, time
held = []
for _ in range(int(sys.argv[1])):
    held.append(b"x" * (8 << 20))
    time.sleep(0.01)
"""


def processes(container: Container) -> dict[int, str]:
    """Return the processes of a container, seen from outside, with their command lines."""
    groups = Path(f"/proc/{container.pid}/cgroup").read_text()
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cgroup").read_text() == groups:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def workers(container: Container) -> dict[int, str]:
    return {pid: line for pid, line in processes(container).items() if "tigrismount.app" in line}


def resident_bytes(pids) -> int:
    """Return what processes have in memory that no other has, roughly: without what files have given them."""
    fields = [dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()) for pid in pids]
    return sum(int(field["RssAnon"].split()[0]) << 10 for field in fields)


def test_a_worker_that_is_killed_for_its_memory_is_replaced_and_no_read_fails(node, volume):
    """The kernel's own killer, in the mounter's cgroup; which process it takes is settled for it."""
    target = node.kubelet.target("pod-1")
    node.kubelet.publish(volume, target)
    (before,) = workers(node.mounter)
    Path(f"/proc/{before}/oom_score_adj").write_text("1000")
    with node.reading(target, "weights", 15) as found:
        node.mounter.engine.attempt("podman", "exec", node.mounter.name, "python", "-c", HOG, 200)
        assert wait_until(lambda: workers(node.mounter).keys() - {before}, timeout_s=30), node.mounter.log()
    print(found)
    assert "SIGKILL" in node.mounter.log()
    assert (found["errors"], found["wrong"]) == ([], 0)
    node.kubelet.unpublish(volume.volume_id, target)


def test_both_halves_stay_below_what_the_manifests_give_them(node, volume, bucket):
    """With three volumes that are read at once; the figures are those of docs/howto/kubernetes.md."""
    targets = [
        (
            node.kubelet.target(f"pod-{number}"),
            Volume(f"csi-{number:064x}", volume.attributes, volume.secret, is_inline=True),
        )
        for number in range(3)
    ]
    for target, each in targets:
        node.kubelet.publish(each, target)
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(node.reading(target, "weights", 10)) for target, _ in targets]
        peaks = {"csi": 0, "mounter": 0, "workers": 0}
        for _ in range(20):
            serving = workers(node.mounter)
            others = [pid for pid in processes(node.mounter) if pid not in serving]
            now = {"csi": processes(node.driver), "mounter": others, "workers": serving}
            peaks = {name: max(peak, resident_bytes(now[name])) for name, peak in peaks.items()}
            wait_until(lambda: False, timeout_s=0.3)
    print({name: f"{peak / (1 << 20):.0f} MiB" for name, peak in peaks.items()}, len(serving), found)
    assert [each["errors"] for each in found] == [[]] * 3
    assert peaks["csi"] < 256 << 20
    assert peaks["workers"] < 3 * (150 + 1.25 * 128) * (1 << 20)
    for target, each in targets:
        node.kubelet.unpublish(each.volume_id, target)
    assert wait_until(lambda: not workers(node.mounter), timeout_s=30)
