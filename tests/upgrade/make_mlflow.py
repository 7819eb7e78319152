"""Makes `mlflow.tar.xz`: what a run by an earlier version leaves beside `before.tar.xz`.

    git worktree add /tmp/earlier 62f9cd8
    PYTHONPATH=/tmp/earlier python tests/upgrade/make_mlflow.py tests/upgrade/mlflow.tar.xz

That is a database of MLflow with the runs of two grids, one of which trains a network; of
their artifacts a table of each and the network; and what was added to the store and the configs.
Like `before.tar.xz` it is never made again.
"""

from __future__ import annotations

import contextlib
import os
import platform
import runpy
import sqlite3
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

BEFORE = Path(__file__).with_name("before.tar.xz")
CONFIGS = {
    "recipes/brief.yaml": (
        "method: mixup\nepochs: 2\nlearning_rate: 0.1\nschedule: one-cycle\n"
        "crop_padding_px: 0\nflip: false\n"
    ),
    "models/trained.yaml": ("dataset: letters\nnetwork: {kind: small, width: 2}\nrecipe: brief\n"),
    "grids/trained.yaml": (
        "epsilon: 8\ntables:\n  - name: main\n    models: [trained]\n"
        "    attacks: [clean, pgd]\n    defenses: [none]\n"
    ),
}
GRIDS = ("mine", "trained")
KEPT = {"main.md", "attacked.md"}
"""Of a report's files."""


def run(grid: str) -> None:
    """What `pipeline run --grid GRID` does in this folder."""
    sys.argv = ["pipeline", "run", "--grid", grid, "--inline", "--quiet"]
    with contextlib.suppress(SystemExit):
        runpy.run_module("pipeline", run_name="__main__")


def main(target: Path) -> None:
    """Write the archive."""
    os.environ.update(LOGNAME="someone", USER="someone")
    platform.node = lambda: "somewhere"
    with TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        home = Path(scratch) / "home"
        home.mkdir()
        os.chdir(home)
        with tarfile.open(BEFORE) as archive:
            archive.extractall(home, filter="data")
        before = {path for path in home.rglob("*") if path.is_file()}
        for name, text in CONFIGS.items():
            (home / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "configs" / name).write_text(text, encoding="utf-8")
        for grid in GRIDS:
            run(grid)
        database = sqlite3.connect(home / "mlflow.db")
        database.execute("VACUUM")
        database.close()
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for path in sorted(home.rglob("*")):
                place = path.relative_to(home)
                if not path.is_file() or path in before or place.parts[0] == "reports":
                    continue
                if "report" in place.parts and path.name not in KEPT:
                    continue
                archive.add(path, str(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
