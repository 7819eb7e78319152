"""AutoAttack as a column: its candidates, what it needs, and what its authors' own leaves."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny, write_configs
from torch import nn

from pipeline.catalogue.catalogue import Catalogue
from pipeline.commands.plan import plan_lines
from pipeline.grid.builder import load_grid
from pipeline.problems import BadInput
from pipeline.store import arrow
from pipeline.store.candidates import candidates_in
from tasks.attacks import autoattack
from tasks.attacks.apgd import APGD
from tasks.attacks.autoattack import AutoAttack
from tasks.attacks.base import Victim
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.defenses.none import NoDefense
from tasks.specs import Problem

PROBLEM = Problem(epsilon=8.0, classes=10, side=32, pool=100)
SHORT = "kind: autoattack\nsteps: 10\nqueries: 50\n"


def grid_text(defenses: str) -> str:
    return (
        "epsilon: 20\nimages: 60\nredraws: 2\ntables:\n"
        "  - name: main\n    models: [mixed]\n    attacks: [clean, apgd, autoattack]\n"
        f"    defenses: {defenses}\n"
    )


def configs(folder: Path, defenses: str) -> Path:
    return write_configs(
        folder,
        {
            "attacks/autoattack.yaml": SHORT,
            "attacks/apgd.yaml": "kind: apgd\nsteps: 10\n",
            "grids/tiny.yaml": grid_text(defenses),
        },
    )


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "find_spec", lambda _: None)


def test_its_four_attacks_are_the_published_ones():
    tries = AutoAttack().resolved(PROBLEM).tries(NoDefense())
    assert [attempt.name for attempt in tries] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    first, targeted, _, square = (attempt.attack for attempt in tries)
    assert first == APGD(loss="cross-entropy", steps=100, epsilon=8.0)
    assert targeted.ranks == tuple(range(1, 10))
    assert targeted.loss == "dlr"
    assert square.queries == 5000
    assert all(attempt.attack.epsilon == 8.0 for attempt in tries)
    assert all(attempt.attack.forwards_and_backwards().equivalents > 0 for attempt in tries)


def test_of_five_classes_there_are_four_targets():
    few = Problem(epsilon=8.0, classes=5, side=32, pool=100)
    _, targeted, fab, _ = AutoAttack(minimum_norm=True).resolved(few).tries(NoDefense())
    assert targeted.attack.ranks == (1, 2, 3, 4)
    assert fab.attack.parameters["n_classes"] == 5


def test_where_the_library_is_absent_fab_is_left_out_and_that_is_said_in_one_line(
    tmp_path, monkeypatch
):
    without_library(monkeypatch)
    spec = AutoAttack().resolved(PROBLEM)
    assert [attempt.name for attempt in spec.tries(NoDefense())] == ["apgd-ce", "apgd-t", "square"]
    asked_for = AutoAttack(minimum_norm=True).resolved(PROBLEM)
    assert len(asked_for.tries(NoDefense())) == 4
    session = Tiny(configs(tmp_path / "configs", "[none]"), tmp_path / "store").session()
    lines = list(plan_lines(session, forced=set(), every=False, device="A100", workers=1))
    assert lines[0] == (
        "autoattack without its minimum-norm attack FAB: torchattacks is not installed here: "
        "pip install 'torchattacks>=3.3,<3.4'"
    )
    assert not any(line.startswith("autoattack without") for line in lines[1:])


def test_a_model_that_draws_is_refused_in_one_line(tmp_path):
    folder = configs(tmp_path, "[none, counter, guo]")
    with pytest.raises(BadInput) as raised:
        load_grid(Catalogue([folder]), "tiny")
    said = str(raised.value)
    assert "attack 'autoattack' is for models that always give the same answer" in said
    assert "mixed with defense 'guo' draws at random" in said
    assert len(said.splitlines()) == 1


def test_the_column_leaves_no_image_that_its_first_attack_breaks(tmp_path):
    pytest.importorskip("torchattacks")
    made = Tiny(configs(tmp_path / "configs", "[none, counter]"), tmp_path / "store")
    recorder, finished = made.run()
    assert not recorder.failed()
    assert not finished.missing
    session = made.session()

    def share(cell: str) -> np.ndarray:
        record = session.record(session.scores[cell])
        assert record is not None
        return arrow.read_arrays(session.store.path(record, "per_image.arrow"))["correct"]

    for defense in ("none", "counter"):
        told = candidates_in(session.facts()[f"mixed/autoattack/{defense}"])
        assert [each.candidate for each in told] == ["apgd-ce", "apgd-t", "fab-t", "square"]
        stood = 60
        for each in told:
            assert each.images == stood
            stood -= each.broken
        assert 0 < told[1].images < 60
    # of the bare model, the first candidate is the very attack of the other column
    assert (share("mixed/autoattack/none") <= share("mixed/apgd/none")).all()
    assert share("mixed/autoattack/none").mean() < share("mixed/apgd/none").mean()
    estimated = session.estimate(session.plan(session.forced("craft")), device="A100")
    assert "craft" not in estimated.unknown


@pytest.mark.slow
def test_it_leaves_what_the_implementation_of_its_authors_leaves(network: nn.Module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchattacks = pytest.importorskip("torchattacks")
    test = digits().test[:150]
    pixels, labels = as_float(test.pixels), test.labels
    spec = AutoAttack(epsilon=20.0).resolved(PROBLEM)
    standing = network(pixels).argmax(dim=1) == labels
    for attempt in spec.tries(NoDefense()):
        places = standing.nonzero()[:, 0]
        rows = Rows(0, images=places, draws=torch.zeros_like(places))
        victim = Victim(lambda points, _: network(points), classes=10)
        crafted = attempt.attack.perturb(victim, pixels[places], labels[places], rows)
        standing[places] = network(crafted).argmax(dim=1) == labels[places]
    theirs = torchattacks.AutoAttack(network, eps=20 / 255, seed=0)(pixels, labels)
    left = int((network(theirs).argmax(dim=1) == labels).sum())
    assert 15 < left < 135
    assert abs(int(standing.sum()) - left) <= 1
