"""A machine with torch and little else computes from a plain checkout, without being set up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tiny import Tiny, write_configs

from pipeline.catalogue.code.fingerprint import accept
from pipeline.commands.transfer import import_results
from pipeline.store.store import Store

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "mlflow", "polars", "great_tables", "matplotlib", "filelock")
"""Packages that the bare machine lacks, besides this one."""


class BareMachine:
    """A copy of the code, and a folder of packages without some of those installed here."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        for name in ("pipeline", "tasks", "configs"):
            source = ROOT / name
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, self.checkout / name, ignore=skipped)
        self.packages = folder / "packages"
        self.packages.mkdir()
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for path in Path(place).iterdir():
                distribution = path.name.lower().replace("-", "_")
                ours = "test_time_defense_bench" in distribution or path.name == "pipeline"
                if not ours and not distribution.startswith((*ABSENT, "_polars")):
                    (self.packages / path.name).symlink_to(path)
        self.folder = folder / "elsewhere"
        self.folder.mkdir()

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a folder that is not the checkout; -S leaves site-packages out."""
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.checkout), str(self.packages)])
        return subprocess.run(
            [sys.executable, "-S", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def pipeline(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m pipeline` on the tiny grid and the store `store`."""
        where = ["--grid", "tiny", "--configs", "../configs", "--store", "store"]
        return self.python("-m", "pipeline", *words, *where)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> BareMachine:
    folder = tmp_path_factory.mktemp("bare")
    write_configs(folder / "configs")
    machine = BareMachine(folder)
    # code that somebody is working on is not this test's business
    accept(machine.checkout / "tasks")
    return machine


def test_the_bare_machine_lacks_what_it_is_to_lack(machine: BareMachine) -> None:
    code = (
        "import importlib.util, sys\n"
        "print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])\n"
        "from importlib.metadata import distributions\n"
        "print(any('defense' in found.name for found in distributions() if found.name))"
    )
    answer = machine.python("-c", code, *ABSENT)
    assert answer.stdout.split("\n")[:2] == ["[]", "False"], answer.stderr


@pytest.mark.slow
def test_a_bare_machine_computes_in_pieces_and_its_results_are_carried_home(
    machine: BareMachine, tmp_path: Path
) -> None:
    only = ["--only", "cell=mixed/pgd/counter+guo", "--only", "cell=mixed/clean/none"]
    first = machine.pipeline("run", "--inline", "--device", "cpu", "--stop-after", "1e-6", *only)
    assert first.returncode == 130, first.stderr
    assert "the same command goes on from there" in first.stderr
    done = machine.pipeline("run", "--inline", "--device", "cpu", "--stop-after", "9", *only)
    assert done.returncode == 0, done.stderr
    assert "counter+guo" in done.stdout
    said = done.stderr.splitlines()
    assert sum("polars" in line and "not installed" in line for line in said) == 1
    assert sum("MLflow" in line and "not installed" in line for line in said) == 1
    assert "wait in the store" in done.stderr
    assert "Traceback" not in done.stderr
    report = machine.pipeline("report")
    assert report.returncode == 2
    assert "counter+guo" in report.stdout
    sent = machine.pipeline("export", "results.zip", *only)
    assert sent.returncode == 0, sent.stderr
    # at home
    import_results(Store(tmp_path / "store"), machine.folder / "results.zip", replace=False)
    facts = Tiny(machine.folder.parent / "configs", tmp_path / "store").session().facts()
    assert set(facts) == {"mixed/pgd/counter+guo", "mixed/clean/none"}


@pytest.mark.slow
def test_a_bare_machine_says_what_it_lacks(machine: BareMachine) -> None:
    version = machine.python("-m", "pipeline", "--version")
    assert version.stdout.startswith("pipeline, version")
    doctor = machine.python("-m", "pipeline", "doctor")
    assert doctor.returncode == 1
    assert "polars MISSING" in doctor.stdout
    cluster = machine.pipeline("run", "--quiet", "--images", "10")
    assert cluster.returncode == 2
    assert "--inline" in cluster.stderr
    assert "Traceback" not in cluster.stderr
