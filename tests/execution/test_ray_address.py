"""A cluster's address is asked before Ray is, which would try for minutes."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest
from bucket_servers import free_port
from tiny import Recorder, Tiny, write_configs

from pipeline.execution.events import Observers
from pipeline.execution.executors.ray import ask_port, cluster_summary
from pipeline.problems import BadInput

SECONDS = 5.0
"""Within which a port on this machine is told not to be Ray's."""


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens_one_line_says_so_within_seconds(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(BadInput) as caught:
        ask_port(address)
    assert time.monotonic() - began < SECONDS
    assert str(caught.value) == f"Ray at {address} does not answer: connection refused"


def test_a_host_that_is_not_known_and_a_port_that_is_none_are_one_line() -> None:
    with pytest.raises(BadInput, match=r"Ray at nowhere.invalid:6379 does not answer: "):
        ask_port("nowhere.invalid:6379")
    for address in ("127.0.0.1:ray", "127.0.0.1:0", "127.0.0.1:70000"):
        with pytest.raises(BadInput, match=r"expected HOST:PORT, such as 127.0.0.1:6379"):
            ask_port(address)


def test_a_server_that_is_not_rays_is_told_from_it(web: int) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match="what listens there is not Ray"):
        ask_port(f"127.0.0.1:{web}")
    assert time.monotonic() - began < SECONDS


def test_what_closes_the_connection_at_once_is_not_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def close() -> None:
            connection, _ = server.accept()
            connection.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(BadInput, match=r"Ray at .* does not answer: "):
            ask_port(f"127.0.0.1:{port}")
        closing.join()


def test_a_server_that_speaks_as_ray_does_is_left_to_ray() -> None:
    grpc = pytest.importorskip("grpc")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ask_port(f"127.0.0.1:{port}")
    server.stop(0)
    ask_port("auto")


def test_a_run_and_the_doctor_stop_there(tmp_path: Path) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    session = tiny.session()
    session.store.prepare()
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(BadInput, match="does not answer: connection refused"):
        session.run(
            Observers([Recorder()]), inline=False, address=address, workers=None, forced=set()
        )
    with pytest.raises(BadInput, match="does not answer: connection refused"):
        cluster_summary(address)
    assert time.monotonic() - began < 2 * SECONDS
