"""`pipeline report` of a finished store: it reads, and computes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Tiny, write_configs

GRID = """
epsilon: 40
images: 60
redraws: 2
tables:
  - name: main
    models: [mixed]
    attacks: [clean, pgd]
    defenses: [none, counter]
    gains_of: counter
    figure: {probabilities: true}
"""
COMMAND = """
import sys
from pipeline.commands.cli import main
try:
    main(sys.argv[1:])
finally:
    for name in ("torch", "pipeline.execution.runner", "pipeline.execution.work"):
        assert name not in sys.modules, name
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("report")
    configs = write_configs(folder / "configs", {"grids/tiny.yaml": GRID})
    tiny = Tiny(configs, folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


def test_a_report_of_a_finished_store_imports_neither_torch_nor_what_runs(
    done: Tiny, tmp_path: Path
) -> None:
    places = {"--store": done.store, "--configs": done.folder, "--reports": tmp_path}
    words = [word for name, place in places.items() for word in (name, str(place))]
    told = subprocess.run(
        [sys.executable, "-c", COMMAND, "report", "--grid", "tiny", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "tiny" / "index.html").read_text("utf-8")
    assert "Not shown" not in page
    # five of each exhibit: the report has all that a run had computed
    assert page.count("<img ") >= 5
    assert (tmp_path / "tiny" / "main.png").stat().st_size > 0
