"""A store, configs and a defense of before an upgrade: what `docs/upgrade.md` says of them.

A version that goes up adds its cells and lines here, and its row there.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pipeline
from pipeline.commands.cli import main
from pipeline.problems import BadInput
from pipeline.store.records import RENAMED

BEFORE = Path(__file__).parents[1] / "upgrade" / "before.tar.xz"
AGAIN = {"of-numbers/clean/none"}
"""Cells whose results changed: numbers for names of classes had been in another order."""
OWN = {"of-letters/clean/brighten", "of-letters/pgd/brighten"}
"""Cells of a defense of one's own, whose code is also what it imports of the program."""


class Home:
    """The folder of someone who upgrades."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with tarfile.open(BEFORE) as archive:
            archive.extractall(folder, filter="data")
        self.before: Mapping[str, Any] = json.loads((folder / "scored.json").read_text())

    def facts(self, name: str = "mine") -> Mapping[str, Mapping[str, object]]:
        """What each cell of a grid scored before."""
        return self.before[name]["facts"]

    def session(self, name: str = "mine") -> Any:
        folder = self.folder
        return pipeline.load_grid(name, store=folder / "store", configs=[folder / "configs"])

    def plan(self, *words: str) -> str:
        folder = self.folder
        places = ["--store", str(folder / "store"), "--configs", str(folder / "configs")]
        done = CliRunner().invoke(main, ["plan", "--grid", "mine", *places, *words])
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Home(tmp_path)


def as_read_now(facts: dict[str, object]) -> dict[str, object]:
    """Facts under their names of today."""
    return {RENAMED.get(name, name): value for name, value in facts.items()}


def test_what_is_not_touched_is_read_as_before(home: Home) -> None:
    session = home.session()
    todo = session.plan().todo
    kept = {name for name, node in session.scores.items() if node.digest not in todo}
    assert kept == home.facts().keys() - AGAIN - OWN
    for name in kept:
        assert session.scores[name].digest == home.before["mine"]["scores"][name]
        assert session.facts()[name] == as_read_now(home.facts()[name])


def test_plan_says_what_is_computed_again_and_why(home: Home) -> None:
    said = home.plan().splitlines()
    assert {line for line in said if line.count("/") == 2} == AGAIN | OWN
    assert [line for line in said if line.startswith("changed since ")] == [
        "changed since 1 cell had a score: dataset.class_names: None → ['1', '2', '10']",
        (
            "changed since 1 cell had a score: dataset: DatasetSpec: version 1 → 2: "
            "order of numeric classes"
        ),
        "changed since 2 cells had a score: defend: the code of Brighten changed",
    ]
    changed = json.loads(home.plan("--json"))["changed"]
    assert changed["dataset: DatasetSpec: version 1 → 2: order of numeric classes"] == 1


def test_what_is_computed_again_is_right_and_the_old_stays(home: Home) -> None:
    session = home.session()
    finished = pipeline.run(session, inline=True, progress=False)
    assert not finished.missing
    # the images that a report shows are newer than this store
    assert finished.computed == {
        "dataset": 1, "checkpoint": 1, "defend": 3, "score": 3, "exhibit": 1
    }  # fmt: skip
    for name in OWN:
        # the same code of one's own on the same code of ours, so far as it counts
        for key in ("accuracy", "true_probability"):
            assert finished.scored[name][key] == home.facts()[name][key]
    # the classes 1, 2 and 10 hold the images of a, b and c
    [new], letters = AGAIN, "of-letters/clean/none"
    assert finished.scored[new]["true_probability"] == home.facts()[letters]["true_probability"]
    assert finished.scored[new]["true_probability"] != home.facts()[new]["true_probability"]
    assert session.store.record("score", home.before["mine"]["scores"][new]) is not None
    assert home.session().plan().todo == {}


def test_an_old_order_that_is_named_has_its_old_numbers(home: Home) -> None:
    dataset = home.folder / "configs" / "datasets" / "numbers.yaml"
    dataset.write_text(dataset.read_text().replace("classes: 3", 'classes: ["1", "10", "2"]'))
    session = home.session()
    [name] = AGAIN
    assert session.scores[name].digest == home.before["mine"]["scores"][name]
    assert session.facts()[name] == as_read_now(home.facts()[name])


def test_what_was_ambiguous_is_refused_until_it_is_said(home: Home) -> None:
    with pytest.raises(BadInput, match="several image columns: mask, image; say which: image_col"):
        home.session("masks")
    dataset = home.folder / "configs" / "datasets" / "masks.yaml"
    dataset.write_text(dataset.read_text() + "image_column: image\n")
    [name] = home.facts("masks")
    finished = pipeline.run(home.session("masks"), inline=True, progress=False)
    # the same images are those of the other table, whose number stands as it was
    letters = home.facts()["of-letters/clean/none"]["true_probability"]
    assert finished.scored[name]["true_probability"] == letters
