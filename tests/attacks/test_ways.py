"""Which ways a gradient is passed by follows from what a defense declares, and that alone."""

from __future__ import annotations

import pytest
from torch import Tensor

from tasks.attacks.adaptive import Adaptive
from tasks.attacks.search.ways import Way, ways
from tasks.data.seeding import Rows
from tasks.defenses.anti_adversary import AntiAdversary
from tasks.defenses.base import Context, Defense, GradientRule
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.energy import Energy
from tasks.defenses.guo import Guo
from tasks.defenses.hedge import Hedge
from tasks.specs import Problem

PROBLEM = Problem(epsilon=8, classes=10, side=32, pool=100)
PLAIN = Way()
SHORT = Way(inner_steps=5, extra=True)
SHORT_SMOOTHED = Way(inner_steps=5, smoothing=1.0, extra=True)
ITERATES = Way(rule="iterates", extra=True)


class Voting(Defense):
    """A defense that says of itself that it is climbed by a surrogate or straight through."""

    kind: str = "voting"

    def gradients(self) -> tuple[GradientRule, ...]:
        return ("surrogate", "straight-through")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        return pixels


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (Guo(), [PLAIN]),
        (Counter(), [PLAIN, Way(smoothing=1.0)]),
        (Hedge(), [PLAIN, SHORT, ITERATES, SHORT_SMOOTHED]),
        (Hedge(steps=5), [PLAIN, Way(smoothing=1.0), ITERATES]),
        (AntiAdversary(), [PLAIN, Way(smoothing=1.0), ITERATES]),
        (Chain(parts=(Hedge(), Guo())), [PLAIN, SHORT, ITERATES, SHORT_SMOOTHED]),
        (Voting(), [PLAIN, Way(rule="straight-through", extra=True)]),
    ],
    ids=lambda each: repr(each)[:50],
)
def test_ways_are_those_that_a_defense_declares(defense, expected):
    assert list(ways(defense, 1.0)) == expected
    assert list(ways(defense, None)) == [each for each in expected if each.smoothing is None]


def test_further_ways_begin_at_the_best_of_all_candidates_before():
    attack = Adaptive(smoothing=1.0).resolved(PROBLEM)
    tries = attack.tries(Hedge())
    assert {attempt.name: attempt.start for attempt in tries} == {
        "margin-image-20x5": "own",
        "margin-transferred-20x5": "transferred",
        "margin-best-20x5-inner5": "best",
        "margin-best-20x5-iterates": "best",
        "margin-best-20x5-inner5-smoothed1": "best",
    }
    assert [attempt.inner_steps for attempt in tries] == [None, None, 5, None, 5]
    assert [attempt.rule for attempt in tries] == [None, None, None, "iterates", None]


def test_ways_back_through_a_gradient_give_relus_a_second_derivative():
    attack = Adaptive(smoothing=1.0, relu_width=0.2, target_classes=1).resolved(PROBLEM)
    for defense, name in (
        (Counter(), "-smoothed1-relu0.2"),
        (Hedge(), "-inner5-smoothed1-relu0.2"),
        (Energy(), "-unrolled-relu0.2"),
    ):
        tries = attack.tries(defense)
        curved = [attempt for attempt in tries if attempt.relu_width is not None]
        assert {attempt.relu_width for attempt in curved} == {0.2}
        assert any(attempt.name.endswith(name) for attempt in curved)
        back = [each for each in tries if each.smoothing is not None or each.rule == "unrolled"]
        assert curved == back


@pytest.mark.parametrize(
    ("defense", "smoothed"),
    [
        (Guo(), None),
        (Counter(), "-smoothed1"),
        (Hedge(), "-inner5-smoothed1"),
        (AntiAdversary(), "-smoothed1"),
    ],
)
def test_a_wrong_class_is_aimed_at_with_the_sign_smoothed_too(defense, smoothed):
    tries = Adaptive(smoothing=1.0, target_classes=2).resolved(PROBLEM).tries(defense)
    aimed = {attempt.name: attempt for attempt in tries if "target" in attempt.name}
    ranks = ("dlr-target1-20x5", "dlr-target2-20x5")
    further = [] if smoothed is None else [smoothed]
    assert list(aimed) == [f"{rank}{way}" for rank in ranks for way in ("", *further)]
    for name, attempt in aimed.items():
        assert attempt.smoothing == (1.0 if "smoothed" in name else None)
        assert attempt.inner_steps == (5 if "inner5" in name else None)


def test_a_defense_with_one_way_has_the_candidates_that_it_had():
    attack = Adaptive(losses=("cross-entropy", "margin"), smoothing=1.0).resolved(PROBLEM)
    assert [attempt.name for attempt in attack.tries(Counter())] == [
        "cross-entropy-image-20x5",
        "cross-entropy-transferred-20x5",
        "margin-image-20x5",
        "margin-transferred-20x5",
        "cross-entropy-image-20x5-smoothed1",
        "cross-entropy-transferred-20x5-smoothed1",
        "margin-image-20x5-smoothed1",
        "margin-transferred-20x5-smoothed1",
    ]
