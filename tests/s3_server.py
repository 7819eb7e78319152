"""An S3 server on the loopback address, for tests: moto, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
ENVIRONMENT = {
    **KEYS,
    "AWS_REGION": "us-east-1",
    # else the SDK looks for a cloud's machine around it, for seconds
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Server:
    """A server at work."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def halted(self) -> Iterator[None]:
        """It answers nothing meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(log: Path, *, checks_keys_after: int | None = None) -> Iterator[Server]:
    """A server without buckets.

    checks_keys_after: so many requests; from then on it refuses unknown keys.
    """
    port = free_port()
    environment = dict(os.environ)
    if checks_keys_after is not None:
        environment["INITIAL_NO_AUTH_ACTION_COUNT"] = str(checks_keys_after)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait(timeout=30)


def make_bucket(endpoint: str, name: str) -> None:
    """A new bucket on the server."""
    from pyarrow import fs

    scheme, _, host = endpoint.partition("://")
    server = fs.S3FileSystem(
        endpoint_override=host,
        scheme=scheme,
        region="us-east-1",
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        allow_bucket_creation=True,
    )
    server.create_dir(name)
