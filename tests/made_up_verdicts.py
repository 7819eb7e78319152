"""A made-up grid that is attacked adaptively, and scores of it whose verdicts are known."""

from __future__ import annotations

import dataclasses

import numpy as np
from made_up import DEFENSES, PROBLEM, make_cell

from pipeline.grid.cells import Cell, Grid, Table
from pipeline.report.answers import Answers, PerImage
from pipeline.report.scores import Scores
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.direct import Direct
from tasks.defenses.flip_crop import FlipCrop

IMAGES = 300
QUICK = Adaptive().resolved(PROBLEM)
DIRECT = Direct().resolved(PROBLEM)
ATTACKS = ("clean", "untargeted-pgd50", "adaptive-quick", "direct")
CONTROL = "flip-crop[draws=11]"  # as many passes as the counter-perturbation takes
MODELS = ("demo-iat",)
ROWS = ("none", "counter", "guo", CONTROL)
SHARES = {
    ("clean", "none"): 0.9,
    ("clean", "counter"): 0.7,
    ("untargeted-pgd50", "counter"): 0.8,
    ("adaptive-quick", "none"): 0.4,
    ("adaptive-quick", "counter"): 0.2,
    ("adaptive-quick", "guo"): 0.4,
    ("adaptive-quick", CONTROL): 0.45,
    ("direct", "counter"): 0.9,
}


def cell(model: str, attack: str, defense: str) -> Cell:
    known = attack if attack in {"clean", "untargeted-pgd50"} else "untargeted-pgd10"
    made = make_cell(model, known, defense if defense in DEFENSES else "none")
    spec = {"adaptive-quick": QUICK, "direct": DIRECT}.get(attack, made.attack_spec)
    if defense == CONTROL:
        made = dataclasses.replace(made, defense=defense, defense_spec=FlipCrop(draws=11))
    return dataclasses.replace(made, attack=attack, attack_spec=spec, images=IMAGES)


def grid_of(attacks=ATTACKS, defenses=ROWS, models=MODELS) -> Grid:
    cells = tuple(cell(m, a, d) for m in models for a in attacks for d in defenses)
    table = Table("stress", "Stress", models, tuple(attacks), tuple(defenses), None, "none")
    return Grid("demo", "The demo", cells, (table,))


def scores_of(grid: Grid, shares=SHARES, missing=(), **more) -> Scores:
    """Of the images in their order the first `share` is right, so answers of a model are nested."""

    def read(name: str) -> Answers:
        _, attack, defense = name.split("/")
        share = shares.get((attack, defense), 0.5)
        ids = np.arange(IMAGES)
        return Answers(ids, ids % 10, (ids < share * IMAGES)[:, None])

    names = [each.name for each in grid.cells if each.name not in missing]
    facts = {name: {"accuracy": 50.0, "images": IMAGES} for name in names}
    digests = {each.name: f"{place:064x}" for place, each in enumerate(grid.cells)}
    return Scores(facts, digests=digests, per_image=PerImage(read), **more)
