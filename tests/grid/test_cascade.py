"""The cascade of an adaptive attack: a candidate is made only for images not yet broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny, data_files, write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.commands.show import story
from pipeline.execution.work.artifacts import candidates_of
from pipeline.grid.graph import Graph, Node
from pipeline.store import arrow
from pipeline.store.candidates import Candidate, added_up, candidates_in
from tasks.attacks.adaptive import Adaptive
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted
from tasks.data.splits import digits
from tasks.defenses.base import Context
from tasks.defenses.guo import Guo
from tasks.defenses.none import NoDefense
from tasks.evaluation.costs import craft_passes
from tasks.evaluation.select import select
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.specs import Problem, Shard

MINI = (
    "kind: adaptive\nlosses: [margin]\nsteps: 3\ndraws: 2\nselect_draws: 6\nimages: 60\n"
    "transferred:\n  - {kind: pgd, steps: 3}\n  - {kind: pgd, steps: 3, loss: margin}\n"
)
MAXI = (
    "kind: adaptive\ncheaper:\n  - {losses: [margin], steps: 3, draws: 2}\n"
    "losses: [cross-entropy, margin]\nsteps: 4\ndraws: 3\nsmoothing: 1.0\n"
    "select_draws: 6\nimages: 60\nsquare_queries: 5\nsquare_images: 20\n"
    "transferred:\n  - {kind: pgd, steps: 3}\n  - {kind: pgd, steps: 3, loss: margin}\n"
)
GROWING = {
    "grids/tiny.yaml": (
        "epsilon: 24\nimages: 100\nredraws: 1\ntables:\n"
        "  - name: main\n    models: [mixed]\n    attacks: [adaptive-mini]\n    defenses: [guo]\n"
    )
}
DETERMINISTIC = ("none", "counter")
RANDOMISED = ("guo", "counter+guo", "gaussian")


def tiny(folder: Path, attacks: str, defenses: str, epsilon: int = 20) -> Tiny:
    grid = (
        f"epsilon: {epsilon}\nimages: 60\nredraws: 3\ntables:\n"
        f"  - name: main\n    models: [mixed]\n    attacks: {attacks}\n    defenses: {defenses}\n"
    )
    files = {
        "attacks/adaptive-mini.yaml": MINI,
        "attacks/adaptive-maxi.yaml": MAXI,
        "attacks/adaptive-every.yaml": MAXI + "sure_margin: null\n",
        "defenses/gaussian.yaml": "kind: gaussian\ndraws: 4\n",
        "grids/tiny.yaml": grid,
    }
    return Tiny(write_configs(folder / "configs", files), folder / "store")


def last_select(tiny: Tiny, cell: str) -> Node:
    return tiny.session().scores[cell].parent("shard0").parent("examples")


def candidates(tiny: Tiny, cell: str) -> list[Candidate]:
    return candidates_in(tiny.session().facts()[cell])


def chosen_failures(tiny: Tiny, cell: str) -> np.ndarray:
    session, node = tiny.session(), last_select(tiny, cell)
    record = session.record(node)
    assert record is not None
    columns = arrow.read_arrays(session.store.path(record, "choice.arrow"))
    return columns["failures"][np.arange(len(columns["choice"])), columns["choice"]]


def share_right(tiny: Tiny, cell: str) -> np.ndarray:
    session = tiny.session()
    record = session.record(session.scores[cell])
    assert record is not None
    return arrow.read_arrays(session.store.path(record, "per_image.arrow"))["correct"].mean(axis=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("cascade")
    defenses = "[" + ", ".join((*DETERMINISTIC, *RANDOMISED)) + "]"
    made = tiny(folder, "[adaptive-mini, adaptive-maxi, adaptive-every]", defenses)
    recorder, finished = made.run()
    assert not recorder.failed()
    assert not finished.missing
    return made


@pytest.mark.slow
def test_of_a_deterministic_model_the_same_images_stand_as_without_the_cascade(
    done: Tiny,
) -> None:
    stands = {}
    for defense in DETERMINISTIC:
        cascade = share_right(done, f"mixed/adaptive-maxi/{defense}")
        every = share_right(done, f"mixed/adaptive-every/{defense}")
        assert np.array_equal(cascade, every), defense
        stands[defense] = cascade.mean()
    # How many is the processor's, whose rounding a training follows; behind one of them, some.
    assert 0 < max(stands.values()) < 1


@pytest.mark.parametrize("defense", RANDOMISED)
def test_of_a_randomised_model_no_image_fails_less_on_the_attackers_draws_and_the_mean_as_often(
    defense: str, done: Tiny
) -> None:
    cascade, every = (f"mixed/adaptive-{budget}/{defense}" for budget in ("maxi", "every"))
    assert (chosen_failures(done, cascade) >= chosen_failures(done, every)).all()
    assert share_right(done, cascade).sum() <= share_right(done, every).sum() + 1


@pytest.mark.parametrize("defense", [*DETERMINISTIC, *RANDOMISED])
def test_later_candidates_are_asked_for_what_the_earlier_ones_left(
    defense: str, done: Tiny
) -> None:
    found = candidates(done, f"mixed/adaptive-maxi/{defense}")
    stood = 60
    for each in found:
        if each.candidate.startswith("square"):
            assert each.images <= 20
            continue
        assert each.images == stood
        stood -= each.broken
    assert stood < 60
    assert sum(each.chosen for each in found) == 60
    every = candidates(done, f"mixed/adaptive-every/{defense}")
    assert [each.candidate for each in every] == [each.candidate for each in found]
    assert {each.images for each in every[:-1]} == {60}
    passes, of_every = (sum(each.forwards for each in one) for one in (found, every))
    assert passes < 0.8 * of_every


def test_a_larger_budget_begins_with_the_nodes_of_a_smaller_one(done: Tiny) -> None:
    for defense in (*DETERMINISTIC, *RANDOMISED):
        small = Graph([last_select(done, f"mixed/adaptive-mini/{defense}")])
        large = Graph([last_select(done, f"mixed/adaptive-maxi/{defense}")])
        assert all(node.digest in large for node in small)


def test_budgets_of_the_program_begin_with_the_next_smaller_one_and_go_from_cheap_to_dear() -> None:
    catalogue = Catalogue([Path(__file__).parents[2] / "configs"])
    problem = Problem(epsilon=8, classes=10, side=32, pool=100)
    budgets = {}
    for budget in ("quick", "standard", "full"):
        spec = catalogue.attack(f"adaptive-{budget}")
        assert isinstance(spec, Adaptive)
        budgets[budget] = spec.resolved(problem)
    for name in ("none", "counter", "xie", "guo", "mi-ol", "gaussian", "rotation"):
        defense = catalogue.defense(name).resolved(problem)
        names = {key: [each.name for each in spec.tries(defense)] for key, spec in budgets.items()}
        assert names["standard"][: len(names["quick"])] == names["quick"]
        without_square = names["standard"][:-1]
        assert names["full"][: len(without_square)] == without_square
        costs = [
            craft_passes(
                CraftSpec(
                    attack=each.attack,
                    shard=Shard(start=0, stop=1),
                    seed=0,
                    precision="float32",
                    against=defense,
                    draws=each.draws,
                    smoothing=each.smoothing,
                ),
                10,
            ).equivalents
            for each in budgets["standard"].tries(defense)
        ]
        assert max(costs[:2]) < min(costs[2:])
        assert costs[-1] == max(costs)


def test_more_images_compute_only_new_shards(tmp_path: Path) -> None:
    attack = {"attacks/adaptive-mini.yaml": MINI.replace("images: 60", "images: 200")}
    made = Tiny(write_configs(tmp_path / "configs", {**attack, **GROWING}), tmp_path / "store")
    made.run(images=100)
    recorder, finished = made.run(images=120)
    assert not finished.missing
    shards = {
        (event.node.spec.shard.start, event.node.spec.shard.stop)
        for event in recorder.done()
        if isinstance(event.node.spec, CraftSpec | SelectSpec)
    }
    assert shards == {(100, 120)}


def test_a_cascade_in_which_nothing_stands_goes_on_to_its_end(tmp_path: Path) -> None:
    made = tiny(tmp_path, "[adaptive-maxi]", "[none, guo]", epsilon=255)
    recorder, finished = made.run(images=30)
    assert not recorder.failed()
    assert not finished.missing
    told = candidates_in(made.session(images=30).facts()["mixed/adaptive-maxi/none"])
    assert [each.images for each in told[-2:]] == [0, 0]
    assert made.run(images=30)[1].computed == {}


@pytest.mark.slow
def test_a_cascade_on_ray_is_bit_equal_to_one_inline(tmp_path: Path) -> None:
    inline = tiny(tmp_path, "[adaptive-maxi]", "[none, guo]")
    on_ray = Tiny(inline.folder, tmp_path / "ray")
    inline.run()
    on_ray.run(inline=False, workers=2)
    assert data_files(inline.store) == data_files(on_ray.store)


def test_the_plan_of_a_cascade_is_a_range_that_narrows_as_selections_are_known(
    done: Tiny, tmp_path: Path
) -> None:
    made = tiny(tmp_path, "[adaptive-maxi]", "[guo]")
    session = made.session()
    fresh = session.estimate(session.plan(), device="A100")
    assert 0 < fresh.least_work_s < 0.6 * fresh.work_s
    assert fresh.least_wall_s < fresh.wall_s
    assert any(" to " in line for line in fresh.lines())
    assert any("images that no candidate before it broke" in line for line in fresh.lines())
    # a run that was stopped before the candidate before Square
    shutil.copytree(done.store, tmp_path / "stopped")
    stopped = Tiny(done.folder, tmp_path / "stopped")
    selected = last_select(stopped, "mixed/adaptive-maxi/guo").parent("before")
    (craft,) = candidates_of(selected).values()
    session = stopped.session(only=["cell=mixed/adaptive-maxi/guo"])
    score = session.scores["mixed/adaptive-maxi/guo"]
    before = session.record(selected.parent("before"))
    assert before is not None
    stood = before.facts["standing"]
    assert isinstance(stood, int)
    for node in (craft, selected, *session.graph.children(selected), score.parent("shard0"), score):
        shutil.rmtree(stopped.store / node.kind / node.digest[:2] / node.digest, ignore_errors=True)
    known = session.estimate(session.plan(), device="A100")
    assert known.by_node[craft.digest] == pytest.approx(stood / 60 * fresh.by_node[craft.digest])


def test_show_tells_what_each_candidate_was_asked_for(done: Tiny) -> None:
    session = done.session()
    told = story(session, session.grid.cell("mixed/adaptive-maxi/guo"), None)
    score = told["score"]
    assert isinstance(score, dict)
    found = candidates_in(score)
    assert found[0].candidate == "transferred-pgd"
    assert found[0].images == 60
    assert found[0].forwards == 3 * 60


# The choice itself


@pytest.fixture
def context(network) -> Context:
    return Context(Frozen(network, classes=10), pool=digits().train)


def test_an_image_is_done_only_where_every_draw_fails_by_the_margin(context: Context) -> None:
    images = digits().test[:40]
    wrong = digits().test[40:80]
    none = torch.full_like(images.labels, -1)
    pixels = wrong.pixels.float() / images.pixels.max()
    other = Crafted(pixels, images.labels, images.ids, none)
    clean = Crafted(images.pixels.float() / images.pixels.max(), images.labels, images.ids, none)
    standing = {}
    for margin in (None, 0.0, 0.5, 1.1):
        spec = SelectSpec(
            against=Guo(draws=3), shard=Shard(start=0, stop=40), seed=0, draws=4, margin=margin
        )
        found = select({"a": clean, "b": other}, images, context, spec, batch_size=500)
        standing[margin] = int(found.standing.sum())
        sure = ~found.standing
        assert (found.failures.nan_to_num().amax(dim=1)[sure] == 1).all()
        later = found.failures[:, 1].isnan()
        assert torch.equal(later, sure & (found.choice == 0))
    assert standing[None] == standing[1.1] == 40
    assert standing[0.0] <= standing[0.5] < 40


def test_whole_predictions_are_among_the_attackers_draws(context: Context) -> None:
    images = digits().test[:40]
    none = torch.full_like(images.labels, -1)
    clean = Crafted(images.pixels.float() / images.pixels.max(), images.labels, images.ids, none)
    for defense, draws in ((Guo(draws=3), 4 + 2), (NoDefense(), 1)):
        spec = SelectSpec(
            against=defense, shard=Shard(start=0, stop=40), seed=0, draws=4, predictions=2
        )
        failures = select({"a": clean}, images, context, spec, batch_size=500).failures
        assert torch.equal((failures * draws).round(), (failures * draws))


def test_candidates_of_several_shards_are_added_up_by_name() -> None:
    one = [Candidate(candidate="a", images=10, broken=4, failed_draws_percent=50.0)]
    two = [
        Candidate(candidate="a", images=30, broken=1, failed_draws_percent=10.0),
        Candidate(candidate="b", images=29),
    ]
    assert added_up([one, two]) == [
        Candidate(candidate="a", images=40, broken=5, failed_draws_percent=20.0),
        Candidate(candidate="b", images=29),
    ]
    assert candidates_in({"candidates": {"older": {}}}) == []
