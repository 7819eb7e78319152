"""The integrity card: it catches each planted fault, and a healthy defense passes it."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from broken_defenses import Detaching, Rounding, Sharing, ZeroGradient
from torch import nn

from tasks.attacks.search.geometry import Ball
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor, Images
from tasks.data.splits import digits
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.crossmax import CrossMax
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.none import NoDefense
from tasks.defenses.smooth import Smooth
from tasks.defenses.transforms.straight import through
from tasks.evaluation.specs import CardSpec
from tasks.integrity.card import BY_GRADIENT, card
from tasks.integrity.costs import card_passes
from tasks.integrity.findings import Finding, overall
from tasks.progress import Progress, silent
from tasks.specs import Problem

COUNT = 40
PROBLEM = Problem(epsilon=40, classes=10, side=8, pool=100)
CHECKS = ["frozen", "alone", "gradient", *BY_GRADIENT, "ball"]


@pytest.fixture(scope="module")
def images() -> Images:
    return digits().test[:COUNT]


@pytest.fixture
def frozen(network: nn.Module) -> Frozen:
    return Frozen(network, classes=10)


def spec_of(defense: Defense, **changes: object) -> CardSpec:
    given = {
        "images": COUNT,
        "epsilon": 40.0,
        "draws": 3,
        "steps": (5, 10),
        "climb_steps": 10,
        "corners": 3,
        "queries": 20,
        "query_draws": 2,
        "seed": 3,
        **changes,
    }
    return CardSpec(against=defense.resolved(PROBLEM), **given)


def asked(
    defense: Defense,
    frozen: Frozen,
    images: Images,
    /,
    *,
    batch_size: int = 1000,
    **changes: object,
) -> dict[str, Finding]:
    spec = spec_of(defense, **changes)
    found = card(images, Context(frozen), spec, batch_size=batch_size)
    assert [finding.check for finding in found] == CHECKS
    assert all("\n" not in finding.words for finding in found)
    return {finding.check: finding for finding in found}


def failed(found: dict[str, Finding]) -> set[str]:
    return {check for check, finding in found.items() if finding.verdict == "fail"}


@pytest.mark.parametrize(
    "defense",
    [
        NoDefense(),
        Gaussian(draws=5),
        Chain(parts=(Counter(), Gaussian(draws=5))),
        CrossMax(inner=Gaussian(), members=4),
        Smooth(draws=5, standard_deviation_255ths=8),
    ],
    ids=["none", "gaussian", "counter+gaussian", "crossmax", "smooth"],
)
def test_a_healthy_defense_passes_every_check(defense, frozen, images):
    found = asked(defense, frozen, images)
    assert failed(found) == set()
    made = {check for check, finding in found.items() if finding.verdict in {"pass", "warn"}}
    assert made == set(CHECKS)
    assert overall(found.values()) in {"pass", "warn"}


def test_a_defense_that_detaches_its_input_is_caught(frozen, images):
    found = asked(Detaching(), frozen, images)
    assert failed(found) == {"gradient"}
    assert "detaches its input" in found["gradient"].words
    assert all(found[check].verdict == "skipped" for check in BY_GRADIENT)
    assert overall(found.values()) == "fail"


def test_a_defense_that_shares_its_draws_over_the_batch_is_caught(frozen, images):
    found = asked(Sharing(), frozen, images)
    assert found["alone"].verdict == "fail"
    assert "share their draws" in found["alone"].words
    assert asked(Gaussian(draws=3), frozen, images)["alone"].verdict == "pass"


@pytest.mark.parametrize("above", [8, 500])
def test_answers_that_depend_on_the_batch_in_large_batches_alone_are_caught(above, frozen, images):
    class OfLargeBatches(NoDefense):
        def transform(self, pixels, rows, context):
            shade = pixels.mean() if len(pixels) > above else 0
            return (pixels * (1 - shade)).clamp(0, 1)

    finding = asked(OfLargeBatches(), frozen, images)["alone"]
    assert finding.verdict == "fail"
    assert finding.measured["median change"] < finding.measured["in a full batch"]
    small = asked(OfLargeBatches(), frozen, images, batch_size=8)["alone"]
    assert small.verdict == "pass"


def test_a_network_left_in_train_mode_is_caught(network, images):
    with_dropout = nn.Sequential(*network[:-1], nn.Dropout(0.1), network[-1])
    frozen = Frozen(with_dropout, classes=10)
    assert asked(NoDefense(), frozen, images)["frozen"].verdict == "pass"
    frozen.module.train()
    found = asked(NoDefense(), frozen, images)
    assert found["frozen"].verdict == "fail"
    assert "train mode" in found["frozen"].words


def test_weights_that_an_attack_changes_are_caught(frozen, images):
    class Learning(NoDefense):
        def transform(self, pixels, rows, context):
            with torch.no_grad():
                next(context.classifier.module.parameters()).mul_(1.0001)
            return pixels

    found = asked(Learning(), frozen, images)
    assert found["frozen"].verdict == "fail"
    assert "weights have changed" in found["frozen"].words


def test_a_gradient_of_zero_is_caught_by_itself_and_by_square(frozen, images):
    found = asked(ZeroGradient(), frozen, images, queries=200)
    assert found["gradient"].verdict == "fail"
    assert found["gradient"].measured["zero"] == COUNT
    assert {"gradient", "frozen-draw", "chance", "square"} <= failed(found)


def test_a_fixed_draw_that_is_more_robust_than_the_bare_model_passes(frozen, images):
    class SoftThreshold(NoDefense):
        """A true defense of nearly black and white images, smooth, with its own gradient."""

        kind: Literal["soft-threshold"] = "soft-threshold"

        def transform(self, pixels, rows, context):
            return torch.sigmoid(10 * (pixels - 0.5))

    defended, bare = (asked(each, frozen, images) for each in (SoftThreshold(), NoDefense()))
    kept = defended["frozen-draw"].measured
    assert kept["own gradient"] > bare["frozen-draw"].measured["own gradient"] + 20
    assert kept["own gradient"] <= kept["replayed"]
    assert failed(defended) == set()


def test_a_fixed_draw_without_a_gradient_fails_though_it_keeps_no_more_than_the_bare_model(
    frozen, images
):
    class Blurred(ZeroGradient):
        """It loses on clean images what it seems to gain under attack."""

        kind: Literal["blurred"] = "blurred"

        def transform(self, pixels, rows, context):
            return super().transform(nn.functional.avg_pool2d(pixels, 3, 1, 1), rows, context)

    found = asked(Blurred(), frozen, images, epsilon=16.0)
    bare = asked(NoDefense(), frozen, images, epsilon=16.0)
    kept = found["frozen-draw"]
    assert kept.measured["own gradient"] <= bare["frozen-draw"].measured["own gradient"]
    assert kept.verdict == "fail"


def test_a_masked_gradient_loses_to_random_corners(frozen, images):
    class Misleading(NoDefense):
        """Its gradient points away from where the loss grows."""

        def transform(self, pixels, rows, context):
            return through(-pixels, pixels)

    found = asked(Misleading(), frozen, images, corners=20)
    assert {"corners", "frozen-draw"} <= failed(found)


def test_a_transform_that_gives_no_images_under_attack_is_a_finding(frozen, images):
    class Brightening(NoDefense):
        """It leaves [0, 1] where pixels are between the values of a stored image."""

        def transform(self, pixels, rows, context):
            values = pixels.detach() * 255
            return pixels * (1 + 9 * ((values - values.round()).abs() > 0.01))

    found = asked(Brightening(), frozen, images)
    assert failed(found) == {"steps"}
    assert "expected finite values in [0, 1]" in found["steps"].words
    assert found["epsilon-zero"].verdict == "pass"
    assert found["square"].verdict == "skipped"


def test_an_answer_that_is_not_a_number_is_caught(frozen, images):
    class NotANumber(NoDefense):
        def transform(self, pixels, rows, context):
            return pixels * torch.nan

    assert "alone" in failed(asked(NotANumber(), frozen, images))


def test_a_network_whose_logits_are_not_numbers_is_caught_in_numbers_that_can_be_stored(images):
    class Broken(nn.Module):
        def forward(self, pixels):
            return pixels.flatten(1)[:, :10] * torch.nan

    found = asked(NoDefense(), Frozen(Broken(), classes=10), images)
    assert {"alone", "gradient"} <= failed(found)
    for finding in found.values():
        assert all(math.isfinite(value) for value in finding.measured.values())


def test_an_attack_that_leaves_its_ball_is_caught(frozen, images, monkeypatch):
    def twice_as_far(ball: Ball, pixels: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
        change = (pixels - originals).clamp(-2 * ball.radius, 2 * ball.radius)
        return (originals + change).clamp(0, 1)

    monkeypatch.setattr(Ball, "project", twice_as_far)
    found = asked(NoDefense(), frozen, images)
    assert found["ball"].verdict == "fail"
    assert found["ball"].measured["outside"] > COUNT


def test_a_budget_that_is_too_small_is_a_warning_that_names_the_larger(frozen, images):
    found = asked(Guo(draws=3), frozen, images, draws=1, climb_steps=2)
    assert found["convergence"].verdict == "warn"
    assert found["convergence"].words.startswith("4 steps of 2 draws lower the 1-draw accuracy")


def test_what_no_budget_is_left_for_is_said_to_be_skipped(frozen, images):
    found = asked(NoDefense(), frozen, images, queries=0, converges=False)
    assert {check for check, finding in found.items() if finding.verdict == "skipped"} == {
        "square",
        "convergence",
    }


def test_the_same_card_is_found_again_whatever_the_batch(frozen, images):
    defense = Gaussian(draws=3)
    few, small = images[:16], {"images": 16, "queries": 3, "climb_steps": 5}
    whole = asked(defense, frozen, few, **small)
    again = asked(defense, frozen, few, batch_size=20, **small)
    for check in CHECKS:
        if check != "alone":
            assert again[check] == whole[check]
    assert asked(defense, frozen, few, **small, seed=4) != whole


def test_the_l2_ball_is_examined_too(frozen, images):
    found = asked(NoDefense(), frozen, images, norm="l2", epsilon=200.0)
    assert failed(found) == set()
    assert "1024/255" in found["epsilon"].measured


def test_a_deterministic_defense_is_asked_once_for_all_its_draws(frozen, images):
    found = asked(Rounding(), frozen, images, draws=7)
    assert found["convergence"].verdict in {"pass", "warn"}
    alone = Frozen(frozen.module, classes=10)
    asked(Rounding(), alone, images, draws=1)
    assert frozen.forwards == alone.forwards
    assert frozen.backwards == alone.backwards


@pytest.mark.parametrize(
    "defense",
    [
        NoDefense(),
        Counter(label_count=3),
        Gaussian(draws=4),
        Chain(parts=(Counter(), Gaussian(draws=4))),
    ],
    ids=["none", "counter", "gaussian", "counter+gaussian"],
)
@pytest.mark.parametrize("queries", [0, 4])
def test_the_declared_passes_are_those_that_are_taken(defense, queries, frozen, images):
    few = images[:12]
    spec = spec_of(defense, images=12, steps=(2, 3), queries=queries, converges=queries > 0)
    card(few, Context(frozen), spec, batch_size=10_000)
    declared = card_passes(spec, 10)
    assert frozen.forwards == declared.forwards
    assert frozen.backwards == declared.backwards


def test_progress_goes_from_check_to_check(frozen, images):
    told: list[Progress] = []
    card(images, Context(frozen), spec_of(NoDefense()), batch_size=1000, tell=told.append)
    assert [progress.note for progress in told] == list(BY_GRADIENT)
    assert told[-1].done == told[-1].total


def test_other_images_or_another_arithmetic_than_the_specs_are_refused(frozen, images):
    with pytest.raises(BadTensor, match="expected 40 images, got 39"):
        card(images[:39], Context(frozen), spec_of(NoDefense()), batch_size=9, tell=silent)
    spec = spec_of(NoDefense(), precision="bfloat16")
    with pytest.raises(BadTensor, match="expected a classifier in bfloat16"):
        card(images, Context(frozen), spec, batch_size=9, tell=silent)


def test_lengths_of_descents_must_rise():
    with pytest.raises(ValueError, match="do not rise"):
        spec_of(NoDefense(), steps=(50, 10))
