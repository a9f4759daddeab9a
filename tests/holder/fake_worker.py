"""A worker without an engine: speaks the supervisor's protocol and answers the kernel with an empty directory.

What it does wrong is told in the configuration's ``fake`` member; its ``successor`` member holds what is different for
workers that take over. It answers raw FUSE messages (linux/fuse.h), so that
it starts in milliseconds and needs no library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
import threading
import time

from tigrismount.holder.init import describe_init
from tigrismount.holder.protocol import Channel

LOOKUP, GETATTR, STATFS, OPENDIR, READDIR, RELEASEDIR, ACCESS = 1, 3, 17, 27, 28, 29, 34
RESEND = struct.pack("=IiQ", 16, 7, 0)
NO_REPLY = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET


def init_reply(request: bytes, max_write: int = 131072) -> bytes:
    kernel = describe_init(request)
    body = struct.pack("=IIIIHHIIHHII", 7, 31, kernel.max_readahead_bytes, 0, 12, 9, max_write, 1, 32, 0, 0, 0) + bytes(
        24
    )
    return struct.pack("=IiQ", 16 + len(body), 0, kernel.unique) + body


def answer(opcode: int, fake: dict) -> bytes | int:
    """Return the body of a reply, or an errno."""
    if opcode == GETATTR:
        attributes = struct.pack("=6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o555, 2, 0, 0, 0, 4096, 0)
        return struct.pack("=QII", 0, 0, 0) + attributes
    if opcode == STATFS:
        return struct.pack("=5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0)
    if opcode == OPENDIR:
        return struct.pack("=QIi", 1, 0, 0)
    if opcode == READDIR:
        return errno.EIO if fake.get("listing_fails") else b""
    if opcode in (RELEASEDIR, ACCESS):
        return b""
    return errno.ENOENT if opcode == LOOKUP else errno.ENOSYS


def serve(fuse_fd: int, channel: Channel, fake: dict) -> None:
    while True:
        readable, _, _ = select.select([fuse_fd, channel], [], [])
        if channel in readable:
            if not obey(channel, fake):
                return
            continue
        try:
            request = os.read(fuse_fd, 1 << 20)
        except OSError as exc:
            misbehave(fake, "unmounted")
            channel.send("stopped", reason=errno.errorcode[exc.errno])
            return
        _, opcode, unique = struct.unpack_from("=IIQ", request)
        if opcode in NO_REPLY or fake.get("hangs") == "serving" or os.path.exists(fake.get("swallows_while", "")):
            continue
        if os.path.exists(fake.get("dies_of_requests_while", "")):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.path.exists(fake.get("hollow_while", "")):
            threading.Thread(target=time.sleep, args=(600,)).start()
            ctypes.CDLL(None).pthread_exit(None)  # as if the thread could not be killed
        reply = answer(opcode, fake)
        body, error = (b"", reply) if isinstance(reply, int) else (reply, 0)
        os.write(fuse_fd, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)


def obey(channel: Channel, fake: dict) -> bool:
    """Do what the supervisor says; return whether to go on serving."""
    message = channel.receive()
    if message is None or message.type == "stop":
        return False
    if message.type == "ping":
        channel.send("pong")
    elif message.type == "note":
        print(f"note: {message.body['handover']}", file=sys.stderr)
    elif message.type == "release":
        misbehave(fake, "release")
        print(f"release, cancel: {message.body['cancel']}", file=sys.stderr)
        channel.send("released", resend=True)
        if fake.get("lingers"):
            time.sleep(600)
        return False
    return True


def misbehave(fake: dict, stage: str) -> None:
    if fake.get("dies") == stage and os.path.exists(fake.get("dies_while", "/")):
        print("something terrible", file=sys.stderr)
        os._exit(7)
    if fake.get("killed") == stage:
        os.kill(os.getpid(), signal.SIGKILL)
    if fake.get("hangs") == stage:
        time.sleep(600)


def keep_journal(channel: Channel, fd: int, fake: dict) -> None:
    """Write one letter behind those of the workers before; where told so, into a new journal."""
    letters = os.pread(fd, 100, 0) + b"x"
    print(f"journal: {letters.decode()}", file=sys.stderr)
    if fake.get("rewrites_journal"):
        fd = os.memfd_create("journal")
        channel.send("journal", [fd])
    os.pwrite(fd, letters, 0)


def main() -> None:
    channel = Channel.from_fd(int(sys.argv[sys.argv.index("--holder-fd") + 1]))
    start = channel.receive().body
    config = start["config"]
    fake = config.get("fake", {})
    if start.get("takeovers"):
        fake = {**fake, **fake.get("successor", {})}
        print(f"takeover {start['takeovers']}: {start['takeover_reason']}", file=sys.stderr)
    if fake.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"fake worker started, s3: {config.get('s3')}", file=sys.stderr)
    if "fails" in fake:
        channel.send("failed", **fake["fails"])
        sys.exit(1)
    while os.path.exists(fake.get("waits_while", "")):
        time.sleep(0.01)
    misbehave(fake, "ready")
    channel.send("ready", **fake.get("ready", {}))
    attach = channel.receive()
    if attach is None:
        return
    misbehave(fake, "attached")
    reply = init_reply(bytes.fromhex(attach.body["init"]), fake.get("max_write", 131072)).hex()
    channel.send("attached", init_reply=fake.get("init_reply", reply))
    serve_now = channel.receive()
    if serve_now is None:
        return
    fuse_fd, journal_fd = attach.fds
    keep_journal(channel, *(serve_now.fds or [journal_fd]), fake)
    if serve_now.body["resend"]:
        os.write(fuse_fd, RESEND)
    channel.send("serving", **fake.get("serving", {}))
    misbehave(fake, "serve")
    serve(fuse_fd, channel, fake)


if __name__ == "__main__":
    main()
