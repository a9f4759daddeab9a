"""What a mount's thread in the mounter says, without a driver."""

from __future__ import annotations

import os
import sys
import threading

from tigrismount.holder.protocol import Message
from tigrismount.mounter.keeper import Keeper
from tigrismount.mounter.log import MountLog
from tigrismount.mounter.volumes import Installation
from tigrismount.mounter.wire import Order


def test_a_worker_that_is_killed_as_it_starts_is_told_with_what_to_look_at(tmp_path):
    """As by the kernel, where the mounter's limit is too small: the event of the pod says more than a signal."""
    said = []
    order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
    killed = (sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)")
    installation = Installation(
        environment={**os.environ, "TIGRISMOUNT_CACHE_DIR": "off"}, flags={"cache_dir": ("off",)}, worker_command=killed
    )
    log = MountLog("one", level="error", json_lines=False)
    turns = threading.Semaphore()
    keeper = Keeper(order, installation, log, lambda type_, fds=(), /, **body: said.append((type_, body)), print, turns)

    keeper.begin(Message("start", {**order.to_values(), "order": 1, "within_s": 60.0}))
    keeper.join(60)

    ((type_, body),) = said
    assert (type_, body["order"], body["kind"]) == ("failed", 1, "internal")
    assert body["message"].startswith("s3://models/llama: ")
    assert "SIGKILL" in body["message"]
    assert "memory limit" in body["message"]
