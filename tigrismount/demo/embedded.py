"""The embedded S3 server from the side of who starts it: a context manager around the process.

moto lives in the other process alone, so that its imports, threads and memory are not ours, and what is measured
here is the client.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from tigrismount.demo.command import MODULE, CommandError
from tigrismount.demo.recorder import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tigrismount.demo.faults import FaultRule

_START_S = 60.0
"""Longest wait for the server: importing moto takes one second, ten on a loaded machine."""
_STOP_S = 10.0
"""Longest wait for its end before it is killed."""
_CONTROL_S = 30.0
"""Longest wait for an answer of the side channel."""

_FOREIGN = ("AWS_", "TIGRIS_", "TIGRISMOUNT_", "BUCKET_NAME", "MODEL_BUCKET_NAME")
"""Variables that could lead a child elsewhere than to this server."""


class EmbeddedS3:
    """An S3 server of our own, for a ``with`` block.

    Args:
        directory: Where the objects' files go; None is the system's temporary directory.
        auth: Whether signatures are checked.
    """

    region = "us-east-1"
    endpoint_url = ""
    """``http://127.0.0.1:PORT``, once started."""
    access_key = ""
    """Access key id that may do everything, once started."""
    secret_key = ""
    """Its secret, once started."""

    def __init__(self, *, directory: str | None = None, auth: bool = True) -> None:
        self._arguments = ["--directory", directory] if directory is not None else []
        if not auth:
            self._arguments.append("--no-auth")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it listens.

        Raises:
            CommandError: It did not come up; its own words are on stderr.
        """
        read_fd, write_fd = os.pipe()
        command = [*MODULE, "tigrismount.demo.s3server", "--until-eof", "--ready-fd", str(write_fd)]
        try:
            # A session of its own: Ctrl-C on the terminal must reach the program first, which then stops this one.
            self._process = subprocess.Popen(
                [*command, *self._arguments], stdin=subprocess.PIPE, pass_fds=(write_fd,), start_new_session=True
            )
        finally:
            os.close(write_fd)
        with os.fdopen(read_fd, "rb") as ready:
            line = ready.readline() if select.select([ready], [], [], _START_S)[0] else b""
        if not line:
            self.stop()
            raise CommandError("the embedded S3 server did not start; its own words are above")
        answer = json.loads(line)
        self.endpoint_url, self.access_key = answer["endpoint_url"], answer["access_key"]
        self.secret_key = answer["secret_key"]

    def stop(self) -> None:
        """Stop the server and wait for its end; nothing when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a whole environment for a child that shall use this server.

        Args:
            base: Environment to start from; None is our own. Variables that name other stores, keys or mount
                options are left out of it.
        """
        source = os.environ if base is None else base
        kept = {name: value for name, value in source.items() if not name.startswith(_FOREIGN)}
        return kept | {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            # Nothing of ours goes through a proxy, and no profile or metadata service is asked.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, *, connections: int = 10) -> Any:
        """Return a boto3 S3 client for this server.

        Args:
            connections: Size of its connection pool.
        """
        # Here, because starting a server should not cost the import of boto3.
        import boto3
        from botocore.config import Config

        config = Config(
            max_pool_connections=connections,
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            retries={"total_max_attempts": 2},
            proxies={},
            # moto accepts wrong checksums and pure Python pays for right ones: the demo compares the bytes itself.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=config,
        )

    def requests(self, operation: str | None = None, *, key: str | None = None) -> list[RequestRecord]:
        """Return what the server was asked since the last reset, oldest first.

        Args:
            operation: Only these, ``GetObject`` for example; None is all.
            key: Only those of this key; None is all.
        """
        records = (RequestRecord(**record) for record in self._control("GET", "requests"))
        return [r for r in records if operation in (None, r.operation) and key in (None, r.key)]

    def data_bytes(self) -> int:
        """Return how many bytes of objects the server has sent since the last reset."""
        return sum(record.bytes for record in self.requests("GetObject") if record.status in (200, 206))

    def reset_requests(self) -> None:
        """Forget what the server was asked."""
        self._control("DELETE", "requests")

    def inject(self, *rules: FaultRule) -> None:
        """Put fault *rules* in force in place of all others; none clears them."""
        self._control("POST", "faults", [rule.to_json() for rule in rules])

    def add_key(self, user: str) -> tuple[str, str]:
        """Return id and secret of a further access key, which may do everything but what fault rules deny it.

        Args:
            user: A name that is new to the server.
        """
        access_key, secret_key = self._control("POST", "keys", user)
        return access_key, secret_key

    def _control(self, method: str, name: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(  # noqa: S310 -- our own server, by http
            f"{self.endpoint_url}/_tigrismount/{name}", data=body, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_CONTROL_S) as reply:
            return json.load(reply)
