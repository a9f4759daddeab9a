"""Which mounts ``tigrismount metrics`` says of that they do not answer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner

from tigrismount.cli import metrics
from tigrismount.control.paths import socket_path
from tigrismount.demo.command import wait_until
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry
from tigrismount.holder.probe import Finding, Health


def entry(mountpoint: str, device: str, uid: int = 0, kind: str = FUSE_TYPE) -> MountEntry:
    return MountEntry(
        mount_id=1,
        device=device,
        mountpoint=mountpoint,
        type=kind,
        source="s3://b",
        super_options=(f"user_id={uid}",),
    )


def silent(mounts: list[MountEntry], answered: set[str], uids: set[int]) -> set[str]:
    return {entry.mountpoint for entry in metrics.silent_among(mounts, answered, uids)}


def test_a_mount_of_ours_that_said_nothing_is_silent():
    assert silent([entry("/a", "0:1"), entry("/dead", "0:2")], {"/a"}, {0}) == {"/dead"}


def test_what_answers_is_not_silent_where_it_is_bound_to_another_place():
    assert silent([entry("/a", "0:1"), entry("/bound", "0:1")], {"/a"}, {0}) == set()


def test_mounts_of_others_were_not_asked():
    others = [entry("/b", "0:2", uid=1000), entry("/c", "0:3", kind="fuse.sshfs"), entry("/d", "0:4", kind="ext4")]
    assert silent(others, set(), {0}) == set()
    assert silent(others, set(), {0, 1000}) == {"/b"}, "root asks those of units as well"


@pytest.mark.parametrize("health", Health)
def test_a_mount_whose_socket_is_elsewhere_is_missed_once_it_is_dead(tmp_path, monkeypatch, health):
    """Mutation: volumes of a cluster's driver and mounts of containers are said to be down while they serve."""
    looks = []

    def look(path: str, *, timeout_s: float) -> Finding:
        looks.append(path)
        return Finding(health)

    monkeypatch.setattr(metrics, "probe", look)
    monkeypatch.setattr(metrics, "_hung", set())
    monkeypatch.setattr(metrics, "runtime_directories", lambda *_, **__: [str(tmp_path)])
    volume = entry("/volume", "0:9")
    assert [metrics._is_missed(volume), metrics._is_missed(volume)] == [health is Health.DEAD] * 2
    assert len(looks) == (1 if health is Health.HUNG else 2), "who looks at one that hangs may never come back"
    with open(socket_path(str(tmp_path), "/volume"), "wb"):
        assert metrics._is_missed(volume), "its daemon was asked, and did not answer"


@pytest.mark.parametrize(("listen", "url"), [("0.0.0.0", "http://127.0.0.1"), ("[::1]", "http://[::1]")])
def test_the_figures_are_served_at_any_address_and_without_asking_the_dns(tmp_path, monkeypatch, listen, url):
    """Mutation: on a host with IPv6 alone they cannot be, and where the DNS is down only after half a minute."""
    if listen.startswith("["):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    found = []
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("a name was looked up"))
    monkeypatch.setattr(metrics, "runtime_directories", lambda *_, **__: [str(tmp_path)])
    monkeypatch.setattr(metrics, "read_mounts", list)

    def scrape(server):
        with server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{url}:{server.server_address[1]}/metrics") as answer:
                found.append(answer.status)
            server.shutdown()

    monkeypatch.setattr(metrics, "_serve", scrape)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = CliRunner().invoke(metrics.metrics, ["--listen", f"{listen}:{port}"], standalone_mode=False)
    assert done.exception is None
    assert found == [200]


def test_who_serves_goes_on_where_its_address_cannot_be_said():
    """Mutation: with the disk of its log full, or its reader gone, there are no figures of any mount."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-P", "-m", "tigrismount", "metrics", "--listen", str(port)]
    with (
        open("/dev/full", "w", encoding="utf-8") as full,
        subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, text=True) as serving,
    ):
        try:
            assert wait_until(lambda: serving.poll() is not None or _answers(port))
            assert serving.poll() is None
        finally:
            serving.terminate()
        assert serving.stderr is not None
        assert serving.stderr.read() == (
            "tigrismount: warning: standard output cannot be written: No space left on device\n"
        )
    assert serving.returncode == 0


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(f"http://127.0.0.1:{port}/nothing", timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        pass
    return False
