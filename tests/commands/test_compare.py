"""`pipeline compare`: which cells moved between runs, stores and variants, and what moved them."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from tiny import Tiny, write_configs

import pipeline
from pipeline.commands.cli import main
from pipeline.commands.compare import runs_of
from pipeline.report.answers import answers_of
from pipeline.report.formats.comparison import COLUMNS, broken_name, comparison_terminal
from pipeline.report.views.comparison import Compared, Comparison, Place
from pipeline.store.ledger import Ledger
from tasks.evaluation.statistics import sign_flip_test

OWN = """
import torch
from tasks.defenses.base import Defense


class Shift(Defense):
    by: float = 0.0

    def deterministic(self, classes):
        return True

    def transform(self, pixels, rows, context):
        return {code}
"""
GRID = (
    "epsilon: 40\nimages: 80\nredraws: 1\ntables:\n  - name: main\n    models: [mixed]\n"
    "    attacks: [clean]\n    defenses: [none, shift, guo]\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Computed once, with a defense of one's own that does nothing."""
    folder = tmp_path_factory.mktemp("compare")
    changes = {
        "grids/tiny.yaml": GRID,
        "defenses/shift.py": OWN.replace("{code}", "pixels"),
        # trained enough for an accuracy that there is something to lose of
        "recipes/short.yaml": (
            "method: mixup\nepochs: 8\nlearning_rate: 0.1\nschedule: one-cycle\n"
            "crop_padding_px: 1\nflip: false\n"
        ),
    }
    tiny = Tiny(write_configs(folder / "configs", changes), folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


@pytest.fixture
def tiny(made: Tiny, tmp_path: Path) -> Tiny:
    """A copy that a test may change."""
    shutil.copytree(made.folder, tmp_path / "configs")
    shutil.copytree(made.store, tmp_path / "store")
    return Tiny(tmp_path / "configs", tmp_path / "store")


def compared(tiny: Tiny, *words: str) -> Result:
    common = ["--store", str(tiny.store), "--configs", str(tiny.folder)]
    return CliRunner().invoke(main, ["compare", *words, *common], catch_exceptions=False)


def as_json(tiny: Tiny, *words: str) -> dict[str, dict[str, object]]:
    done = compared(tiny, *words, "--json")
    return {cell["defense"]: cell for cell in json.loads(done.stdout)["cells"]}


def test_a_defense_that_got_worse_is_told_with_its_code_as_the_reason_and_exit_code_1(
    tiny: Tiny,
) -> None:
    (tiny.folder / "defenses/shift.py").write_text(
        OWN.replace("{code}", "torch.zeros_like(pixels) + 0 * pixels")
    )
    tiny.run()
    done = compared(tiny)
    assert done.exit_code == 1
    assert "significantly worse" in done.stdout
    assert "the code of Shift changed" in done.stdout
    cells = as_json(tiny)
    assert cells["none"]["outcome"] == cells["guo"]["outcome"] == "same"
    shift = cells["shift"]
    assert shift["outcome"] == "worse"
    assert (shift["model"], shift["attack"]) == ("mixed", "clean")
    # the images are those whose answers differ, and the test that of the differences
    runs = list(Ledger(tiny.session().store.backend).runs.values())
    store = tiny.session().store
    before, after = (
        answers_of(store, store.required("score", run.cells["mixed/clean/shift"].score))
        for run in runs
    )
    differences = after.right[:, 0].astype(np.int64) - before.right[:, 0]
    assert shift["images"] == 80
    assert shift["images_lost"] == int((differences < 0).sum()) > 0
    assert shift["images_won"] == int((differences > 0).sum())
    assert shift["p_value"] == sign_flip_test(differences) == shift["p_holm"]
    assert shift["reasons"] == ["defend: the code of Shift changed (shift.py)"]
    first, second = Ledger(store.backend).runs
    assert re.match(rf"last~1 \({first}, [-\d]+ [:\d]+\) → last \({second}, ", done.stdout)
    # the other way round it is better
    assert compared(tiny, "last", "last~1").exit_code == 0
    assert as_json(tiny, "last", "last~1")["shift"]["outcome"] == "better"


def test_a_changed_parameter_is_told_from_what_to_what(tiny: Tiny) -> None:
    (tiny.folder / "defenses/guo.yaml").write_text("kind: guo\ndraws: 5\n")
    tiny.run()
    assert as_json(tiny)["guo"]["reasons"] == ["defend.defense.draws: 2 → 5"]


def test_two_stores_are_compared_and_weights_that_came_out_otherwise_are_told(
    tiny: Tiny, tmp_path: Path
) -> None:
    other = Tiny(tiny.folder, tmp_path / "other")
    shutil.copytree(tiny.store, other.store)
    done = compared(tiny, str(tiny.store), str(other.store))
    assert done.exit_code == 0
    sides = f"{tiny.store} → {other.store}"
    title, _, counts = done.stdout.rpartition("\n3 cells: ")
    assert "".join(title.split()) == "".join(sides.split())
    assert counts == "3 unchanged\n"
    # a store that does the work again, by a recipe of other epochs
    recipe = tiny.folder / "recipes/short.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 8", "epochs: 1"))
    other.run()
    cells = as_json(tiny, str(tiny.store), f"{other.store}@last")
    assert cells["none"]["reasons"] == ["train.recipe.epochs: 8 → 1"]


def test_runs_of_different_numbers_of_images_are_compared_on_those_of_both(tiny: Tiny) -> None:
    tiny.run(images=17)
    facts = tiny.session(images=17).facts()
    accuracies = {name: found["accuracy"] for name, found in facts.items()}
    whole = {name: found["accuracy"] for name, found in tiny.session().facts().items()}
    assert accuracies != whole
    for defense, cell in as_json(tiny).items():
        # nothing but the number of images differs
        assert (cell["outcome"], cell["change"], cell["images"]) == ("same", 0.0, 17)
        told = accuracies[f"mixed/clean/{defense}"]
        assert cell["before"] == cell["after"] == pytest.approx(told)


def test_two_defenses_of_a_grid_are_compared_on_the_same_images(tiny: Tiny) -> None:
    done = compared(tiny, "none", "guo", "--grid", "tiny", "--json")
    (cell,) = json.loads(done.stdout)["cells"]
    assert (cell["model"], cell["attack"], cell["defense"]) == ("mixed", "clean", "")
    facts = tiny.session().facts()
    assert cell["before"] == facts["mixed/clean/none"]["accuracy"]
    assert cell["after"] == facts["mixed/clean/guo"]["accuracy"]
    markdown = compared(tiny, "none", "guo", "--grid", "tiny", "--markdown", "--all").stdout
    assert markdown.startswith("## none → guo\n\n| cell | before | after | change |")


def test_a_swept_default_is_compared_by_the_name_that_has_its_value(tiny: Tiny) -> None:
    swept = f"{GRID}    sweep: {{guo.draws: [2, 5]}}\n"
    (tiny.folder / "grids/swept.yaml").write_text(swept)
    plain = compared(tiny, "none", "guo", "--grid", "swept", "--json")
    done = compared(tiny, "none", "guo[draws=2]", "--grid", "swept", "--json")
    assert json.loads(done.stdout)["after"] == "guo[draws=2]"
    assert json.loads(done.stdout)["cells"] == json.loads(plain.stdout)["cells"]
    missing = compared(tiny, "guo[draws=2]", "guo[draws=5]", "--grid", "swept")
    assert missing.output.startswith("error: compare guo[draws=5]: the store has no score of it")


def test_stores_of_grids_with_different_names_are_not_compared(tiny: Tiny, tmp_path: Path) -> None:
    grids = write_configs(tmp_path / "other") / "grids"
    (grids / "tiny.yaml").rename(grids / "small.yaml")
    store, only = tmp_path / "elsewhere", ["defense=none", "attack=clean"]
    grid = pipeline.load_grid("small", configs=[tmp_path / "other"], store=store, only=only)
    pipeline.run(grid, inline=True, progress=False)
    done = compared(tiny, str(tiny.store), str(store))
    assert done.exit_code == 2
    apart = "no scored cell in common; only cells of grids with the same name are compared\n"
    assert done.output.endswith(apart)


def test_a_store_without_runs_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(main, ["list", "runs", "--store", str(tmp_path / "empty")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"store {tmp_path / 'empty'} has no run that scored a cell\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs", "--store", "nosuch"), "nosuch: no such folder"),
        (("runs", "--only", "attack=pgd"), "list runs: no option --only; list cells has it"),
        (("defenses", "--grid", "demo", "--images", "9"), "no option --grid, --images"),
    ],
)
def test_a_list_refuses_what_it_does_not_read(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(main, ["list", *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_runs_are_listed_by_what_compare_takes(tiny: Tiny) -> None:
    tiny.run(only=["defense=none"])
    common = ["--store", str(tiny.store)]
    done = CliRunner().invoke(main, ["list", "runs", *common, "--json"])
    latest, first = json.loads(done.stdout)["items"]
    for grid, number in (("tiny", 2), ("demo", 0)):
        of_grid = CliRunner().invoke(main, ["list", "runs", *common, "--grid", grid, "--json"])
        assert len(json.loads(of_grid.stdout)["items"]) == number
    assert (first["cells"], first["computed"], latest["cells"]) == (3, 3, 1)
    done = CliRunner().invoke(main, ["compare", first["run"], latest["run"], *common, "--json"])
    outcomes = [cell["outcome"] for cell in json.loads(done.stdout)["cells"]]
    assert sorted(outcomes) == ["only before", "only before", "same"]


def test_the_last_run_is_compared_with_the_one_before_that_has_its_cells(tiny: Tiny) -> None:
    """A run of other cells, as one of another grid, may lie between."""
    alone = compared(tiny)
    assert alone.exit_code == 2
    assert alone.output == (
        f"error: compare: store {tiny.store} has no earlier run of these cells of grid tiny; run "
        "it again after a change, or name two defenses, attacks or models of the grid\n"
    )
    tiny.run(only=["defense=guo"])
    tiny.run(only=["defense=none"])
    found = json.loads(compared(tiny, "--json").stdout)
    assert found["before"].startswith("last~2 (")
    outcomes = {cell["defense"]: cell["outcome"] for cell in found["cells"]}
    assert outcomes["none"] == "same"
    assert compared(tiny, "last~2").exit_code == 0  # beside the last


def test_a_run_of_another_grid_between_is_passed_over_or_the_run_that_fits_is_named(
    tiny: Tiny,
) -> None:
    tiny.run(only=["defense=none"])
    (tiny.folder / "grids/other.yaml").write_text(GRID)
    other = pipeline.load_grid(
        "other", configs=[tiny.folder], store=tiny.store, only=["defense=none"]
    )
    pipeline.run(other, inline=True, progress=False)
    (one, *_) = (run.identifier for run in runs_of(Ledger(other.store.backend)))
    of_store, fits = f"{tiny.store}@last~1", "; the latest earlier run with cells of"
    for words, said in (
        (("last~1", "last"), "; no earlier run has cells of last (grid other)"),
        (("last~1", "last", "--grid", "tiny"), " of grid tiny"),
        (("last", "last~1"), f"{fits} last~1 (grid tiny) is last~2"),
        ((one, of_store), f"{fits} {of_store} (grid tiny) is {tiny.store}@last~2"),
    ):
        done = compared(tiny, *words)
        assert done.exit_code == 2
        assert done.stderr.endswith(f"they have no scored cell in common{said}\n"), done.stderr
    for words in ((), ("last~2",)):
        found = json.loads(compared(tiny, *words, "--grid", "tiny", "--json").stdout)
        assert found["before"].startswith("last~2 (")
        assert found["after"].startswith("last~1 (")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["last~9", "last"], "compare last~9: store"),
        (["guo", "gou", "--grid", "tiny"], "compare gou: no store, no run, and no defense, attack"),
        (["guo", "mixed", "--grid", "tiny"], "compare guo mixed: name two defenses, two attacks"),
        (["last", "nowhere"], "compare nowhere: no store and no run; `pipeline list runs` has"),
        (["ffff", "last"], "compare ffff: no such run"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(
    tiny: Tiny, words: list[str], said: str
) -> None:
    done = compared(tiny, *words)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {said}")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("room", "lines"),
    [
        (99, ["demo-iat/untargeted-pgd10/counter+guo"]),
        (30, ["demo-iat/untargeted-pgd10/", "counter+guo"]),
        (18, ["demo-iat/", "untargeted-pgd10/", "counter+guo"]),
        (3, ["demo-iat/", "untargeted-pgd10/", "counter+guo"]),
    ],
)
def test_a_cells_name_is_broken_after_its_slashes(room: int, lines: list[str]) -> None:
    assert broken_name("demo-iat/untargeted-pgd10/counter+guo", room).split("\n") == lines


@pytest.mark.parametrize("width", [80, 200])
def test_a_swept_value_is_no_markup_and_no_line_is_beyond_the_terminal(width: int) -> None:
    rows = tuple(
        Compared(place=Place("demo-iat", "untargeted-pgd10", f"guo[draws={draws}]"), **rates)
        for draws, rates in (
            (5, {"before": 45.0, "after": 47.5, "p_value": 1.0, "p_holm": 1.0}),
            (16, {"before": 32.5, "after": 32.0}),
        )
    )
    console = Console(width=width, file=io.StringIO())
    found = Comparison("last~1", "last", rows)
    console.print(comparison_terminal(found, every=False, width=width), highlight=False)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "guo[draws=5]" in shown
    assert "guo[draws=16]" in shown
    assert "not significant" in shown
    assert all(f" {name}" in shown for name in COLUMNS)


def test_runs_are_compared_on_the_cells_that_were_chosen_and_with_no_other_option(
    tiny: Tiny,
) -> None:
    chosen = ("--only", "defense=[gn]*", "--only", "model=mixed")
    assert as_json(tiny, "last", "last", *chosen).keys() == {"none", "guo"}
    guo = as_json(tiny, "last", "last", "--only", "cell=mixed/clean/guo")
    assert {name: each["cell"] for name, each in guo.items()} == {"guo": "mixed/clean/guo"}
    for words, said in (
        (("--only", "attack=pgd"), "no scored cell of theirs matches every --only"),
        (("--only", "dataset=digits"), "no key 'dataset'"),
        (("--set", "guo.draws=2", "--images", "9"), "leave out --set, --images"),
    ):
        done = compared(tiny, "last", "last", *words)
        assert done.exit_code == 2
        assert said in done.stderr
    # a cell that only one of two runs scored is told as such, whatever else is chosen
    tiny.run(only=["defense=none"])
    guo = as_json(tiny, "last~1", "last", "--only", "defense=guo")
    assert {name: each["outcome"] for name, each in guo.items()} == {"guo": "only before"}
