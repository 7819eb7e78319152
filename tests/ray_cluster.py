"""A Ray cluster of several nodes on this machine, on the loopback address, for tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from s3_server import free_port

START_S = 400
PORTS = (
    "dashboard-agent-grpc",
    "dashboard-agent-listen",
    "metrics-export",
    "runtime-env-agent",
)
START = """
import time
from ray._private import services
# Ray would take the machine's outer address instead
services.resolve_ip_for_localhost = lambda host: host
# Ray gives a node half a minute to be there, which on a busy machine is too little
get_node = services.get_node
def patient(*args, **kwargs):
    for _ in range(200):
        try:
            return get_node(*args, **kwargs)
        except RuntimeError:
            time.sleep(1)
    return get_node(*args, **kwargs)
services.get_node = patient
from ray.scripts.scripts import main
main()
"""


@dataclass
class Cluster:
    """Nodes as processes of their own. `environment` is what a driver needs to join."""

    port: int
    dashboard: int
    folder: Path
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, **more: str) -> None:
        """Start a node, the first as the head, with more variables in its environment."""
        self.nodes[name] = self._begun(name, more)
        script = (
            "import ray, sys\n"
            f"ray.init('{self.address}', log_to_driver=False, configure_logging=False)\n"
            f"alive = sum(node['Alive'] for node in ray.nodes())\n"
            f"sys.exit(alive < {len(self.nodes)})"
        )
        deadline = time.monotonic() + START_S
        while True:
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                return
            assert self.nodes[name].poll() is None, self.log(name).read_text()
            assert time.monotonic() < deadline, done.stderr
            time.sleep(1)

    def _begun(self, name: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", START, "start", "--block"]
        words += ["--node-ip-address", "127.0.0.1", "--node-name", name]
        words += ["--num-cpus", "1", "--object-store-memory", "80000000"]
        # given ports, since for those that its agents choose Ray waits only a few seconds
        for server in PORTS:
            words += [f"--{server}-port", str(free_port())]
        if self.nodes:
            words += ["--address", self.address]
        else:
            words += ["--head", "--port", str(self.port), "--temp-dir", str(self.folder)]
            words += ["--dashboard-port", str(self.dashboard)]
        with self.log(name).open("wb") as log:
            return subprocess.Popen(
                words,
                env={**self.environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.folder.parent / f"{name}.log"

    def kill(self, name: str) -> None:
        """SIGKILL to all processes of a node."""
        node = self.nodes.pop(name)
        for process in reversed(descendants(node.pid)):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait(timeout=30)

    def processes(self) -> list[int]:
        return [process for node in self.nodes.values() for process in descendants(node.pid)]


def descendants(process: int) -> list[int]:
    """A process and all below it, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [process]
    for each in found:
        found += parents.get(each, [])
    return found


@contextmanager
def ray_cluster(
    *names: str, more: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Cluster]:
    """A running cluster of nodes of one CPU each; the first is the head."""
    # Ray keeps sockets in there, so its path must be short
    folder = Path(tempfile.mkdtemp(prefix="r"))
    environment = {
        **os.environ,
        # as in an environment that is activated: a job says `python`
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # a busy machine is slow to answer, and not dead
        "RAY_health_check_initial_delay_ms": "60000",
        "RAY_health_check_timeout_ms": "60000",
        "OMP_NUM_THREADS": "1",
    }
    cluster = Cluster(free_port(), free_port(), folder / "ray", environment)
    cluster.folder.mkdir()
    try:
        for name in names:
            cluster.start(name, **(more or {}).get(name, {}))
        yield cluster
    finally:
        for name in list(cluster.nodes):
            cluster.kill(name)
        shutil.rmtree(folder, ignore_errors=True)
