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

from bucket_servers import free_port

START_S = 400
TRIES = 6
START = """
import os
from ray._private import ray_constants, services
# Ray would take the machine's outer address instead, here and in the processes of the node
services.resolve_ip_for_localhost = lambda host: host
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
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
        """Start a node, the first as the head, with more variables in its environment.

        Ray gives the parts of a node 15 s to find each other, which on a busy machine is too
        little: then once more.
        """
        for _ in range(TRIES):
            self.nodes[name] = self._begun(name, more)
            if self._there():
                return
            said = self.log(name).read_text()
            self.kill(name)
        raise AssertionError(said)

    def _begun(self, name: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", START, "start", "--block"]
        words += ["--node-ip-address", "127.0.0.1", "--node-name", name]
        words += ["--num-cpus", "1", "--object-store-memory", "80000000"]
        # the agents that jobs are handed to; all would take one port
        words += ["--dashboard-agent-listen-port", str(free_port())]
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

    def _there(self) -> bool:
        """Wait until all started nodes are there; False where one ended instead."""
        script = (
            "import ray, sys\n"
            f"ray.init('{self.address}', log_to_driver=False, configure_logging=False)\n"
            f"alive = sum(node['Alive'] for node in ray.nodes())\n"
            f"sys.exit(alive < {len(self.nodes)})"
        )
        while all(node.poll() is None for node in self.nodes.values()):
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=self.environment,
                capture_output=True,
                check=False,
                timeout=START_S,
            )
            if done.returncode == 0:
                return True
            time.sleep(1)
        return False

    def kill(self, name: str) -> None:
        """SIGKILL to all processes of a node."""
        node = self.nodes.pop(name)
        for process in reversed(descendants(node.pid)):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait(timeout=30)

    def halt_at(self, name: str, task: str) -> bool:
        """Halt a worker of a node in the midst of such a task, so that it will never end.

        task: the beginning of its name in Ray. False where no worker is at one.
        """
        for process in descendants(self.nodes[name].pid):
            if _is_at(process, task):
                os.kill(process, signal.SIGSTOP)
                if _is_at(process, task):
                    return True
                os.kill(process, signal.SIGCONT)
        return False

    def processes(self) -> list[int]:
        return [process for node in self.nodes.values() for process in descendants(node.pid)]


def _is_at(process: int, task: str) -> bool:
    """Whether Ray has named a process after such a task; between two tasks it is `ray::IDLE`."""
    try:
        title = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return title.startswith(f"ray::{task}".encode())


def descendants(process: int) -> list[int]:
    """A process, all below it, parents first, and what is left of a session that it began."""
    parents: dict[int, list[int]] = {}
    session: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
            if int(fields[3]) == process:
                session.append(int(entry.name))
    found = [process]
    for each in found:
        found += parents.get(each, [])
    return list(dict.fromkeys([*found, *session]))


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
