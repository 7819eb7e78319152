"""A real cluster of three Ray nodes, each with processes of its own, and a store in a bucket."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bucket_servers import ENVIRONMENT, make_bucket, s3_server
from ray_cluster import Cluster, ray_cluster
from tiny import Tiny, data_files, write_configs

from pipeline.store.store import Store

PIPELINE = Path(sys.executable).with_name("pipeline")
BUCKET = "cluster-bucket"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass
class Bench:
    """A cluster, an S3 server that its nodes know from their environment, and a small grid."""

    cluster: Cluster
    folder: Path
    inline: dict[str, bytes]

    def begin(self, store: str, *words: str) -> subprocess.Popen[str]:
        """Start a driver."""
        command = [str(PIPELINE), "run", "--grid", "tiny", "--address", self.cluster.address]
        command += ["--configs", str(self.folder / "configs"), "--store", store, *words]
        command += ["--mlflow", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--reports", str(self.folder / "reports")]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, store: str, *words: str) -> subprocess.CompletedProcess[str]:
        driver = self.begin(store, *words)
        out, err = driver.communicate(timeout=1200)
        return subprocess.CompletedProcess(driver.args, driver.returncode, out, err)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    tiny = Tiny(write_configs(folder / "configs"), folder / "inline")
    assert not tiny.run()[1].missing
    with (
        pytest.MonkeyPatch.context() as patch,
        s3_server(folder / "s3.log") as server,
    ):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        make_bucket(server.endpoint, BUCKET)
        with ray_cluster("head", "one", "two") as cluster:
            yield Bench(cluster, folder, data_files(tiny.store))


def bucket_files(address: str) -> dict[str, bytes]:
    """The data files of every artifact in a bucket."""
    backend = Store(address).backend
    keys = [entry.key for entry in backend.find("*/??/*/*")]
    return {key: backend.read(key) for key in keys if not key.endswith("meta.json")}


def test_two_drivers_at_once_on_one_bucket_do_no_harm(bench: Bench) -> None:
    """And what three machines and two drivers made is bit-equal to what one process made."""
    store = f"s3://{BUCKET}/both"
    drivers = [bench.begin(store) for _ in range(2)]
    ended = [driver.communicate(timeout=1200) for driver in drivers]
    said = "\n".join(err for _, err in ended)
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert "set aside" not in said
    assert ended[0][0] == ended[1][0]
    assert bucket_files(store) == bench.inline
    again = bench.run(store)
    assert again.returncode == 0
    assert "nothing to compute" in again.stderr


def test_nothing_of_the_cluster_listens_beyond_the_loopback_address(bench: Bench) -> None:
    found = listening(bench.cluster.processes())
    assert len(found) > 5
    assert all("127.0.0.1" in line for line in found)


def test_a_machine_that_does_not_see_the_store_is_named_before_any_work(bench: Bench) -> None:
    store = f"s3://{BUCKET}/unseen"
    bench.cluster.start("blind", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    try:
        done = bench.run(store, "--quiet")
    finally:
        bench.cluster.kill("blind")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: machine ")
    assert "(blind) does not see the store s3://cluster-bucket/unseen" in line
    assert list(Store(store).each()) == []


def test_a_machine_that_died_before_the_run_is_no_hindrance(bench: Bench) -> None:
    """Ray lists it as alive for a while."""
    bench.cluster.start("dead")
    bench.cluster.kill("dead")
    done = bench.run(str(bench.folder / "dead"), "--only", "defense=none", "--quiet")
    assert done.returncode == 0, done.stderr


def test_a_node_killed_in_mid_run_costs_no_result(bench: Bench) -> None:
    store = bench.folder / "killed"
    driver = bench.begin(str(store))
    wait_until(lambda: len(list(store.glob("defend/??/*/meta.json"))) >= 2 or _ended(driver))
    wait_until(lambda: bench.cluster.halt_at("two", "defend") or _ended(driver))
    assert driver.poll() is None
    bench.cluster.kill("two")
    out, err = driver.communicate(timeout=1200)
    assert driver.returncode == 0, err
    assert "its worker was lost" in err
    assert "10 of 10 cells scored" in err
    assert data_files(store) == bench.inline
    assert "mixed" in out


def _ended(driver: subprocess.Popen[str]) -> bool:
    return driver.poll() is not None


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 900
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listening(processes: list[int]) -> list[str]:
    """What listens for TCP of these processes, as `ss` tells it."""
    said = subprocess.run(
        ["ss", "-ltnpH"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in said if any(f"pid={process}," in line for process in processes)]
