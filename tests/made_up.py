"""Made-up grids and scores, to be reported."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from cells import PROBLEM, digits_cell
from rich.console import Console

from pipeline.grid.cells import Cell, Grid, Table
from pipeline.report.formats.terminal import render_terminal
from pipeline.report.scores import Scores
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.clean import Clean
from tasks.attacks.direct import Direct
from tasks.attacks.pgd import PGD
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.none import NoDefense
from tasks.evaluation.score import Score
from tasks.networks.small import Small
from tasks.training.recipe import Recipe, TrainSpec

DEFENSES = {
    "none": NoDefense(),
    "counter": Counter(),
    "guo": Guo(),
    "counter+guo": Chain(parts=(Counter(), Guo())),
}
ATTACKS = {
    "clean": Clean(),
    **{f"untargeted-pgd{steps}": PGD(steps=steps) for steps in (10, 50, 200)},
    **{f"targeted-pgd{steps}": PGD(steps=steps, targeted=True) for steps in (10, 50, 200)},
}
PAPER_COLUMNS = tuple(ATTACKS)[1:]
ADAPTIVE = {
    "adaptive-quick": Adaptive(losses=("margin",), steps=3, draws=2, select_draws=3),
    "direct": Direct(),
}
MODELS = ("demo-mixup", "demo-iat")


def make_cell(model: str, attack: str, defense: str, seed: int = 0) -> Cell:
    recipe = Recipe(method="iat" if model == "demo-iat" else "mixup", epochs=3)
    return digits_cell(
        model,
        (attack, {**ATTACKS, **ADAPTIVE}[attack]),
        (defense, DEFENSES[defense]),
        seed=seed,
        model_spec=TrainSpec(network=Small(), recipe=recipe, seed=seed).resolved(PROBLEM),
    )


def make_grid(
    attacks: tuple[str, ...] = ("untargeted-pgd10", "targeted-pgd10"),
    *,
    models: tuple[str, ...] = MODELS,
    seeds: int = 1,
    name: str = "table1",
) -> Grid:
    defenses = tuple(DEFENSES)
    cells = tuple(
        make_cell(model, attack, defense, seed)
        for seed in range(seeds)
        for model in models
        for attack in attacks
        for defense in defenses
    )
    table = Table(name, "Digits under PGD", models, attacks, defenses, "counter", None)
    return Grid("demo", "The demo", cells, (table,))


def make_facts(accuracy: float, *, redraws: int = 3) -> dict[str, object]:
    score = Score(
        images=360,
        redraws=redraws,
        accuracy=accuracy,
        interval=(accuracy - 5.0, accuracy + 5.25),
        spread=None if redraws == 1 else 0.4,
        right_in_every_redraw=accuracy / 2,
        true_probability=accuracy / 100,
    )
    return {**score.model_dump(), "forwards_per_prediction": 50.0}


def make_scores(grid: Grid, without: dict[str, str] | None = None) -> Scores:
    without = without or {}
    facts = {
        cell.name: make_facts(20.0 + place / 3, redraws=cell.redraws)
        for place, cell in enumerate(grid.cells)
        if cell.name not in without
    }
    digests = {cell.name: f"{place:064x}" for place, cell in enumerate(grid.cells)}
    return Scores(facts, without, digests)


def scores_of(**accuracies: float) -> Scores:
    return Scores({name: make_facts(value) for name, value in accuracies.items()})


def printed(
    grid: Grid,
    scores: Scores,
    width: int,
    asked: Sequence[Cell] | None = None,
    judged: str | None = None,
) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render_terminal(grid, scores, width=width, asked=asked, judged=judged))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
