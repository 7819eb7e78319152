import numpy as np
import pytest

from tasks.evaluation.statistics import sign_flip_test, summed_shares
from tasks.evaluation.verdicts import Change, change, deciding_images, judged


def gain(points: float, low: float, high: float, images: int = 200) -> Change:
    return Change(points, low, high, images)


@pytest.mark.parametrize(
    ("points", "low", "high", "word"),
    [
        (5.0, 0.1, 9.9, "holds"),
        (-5.0, -9.9, -0.1, "harms"),
        (0.0, 0.0, 0.0, "no gain"),
        (1.0, -1.0, 3.0, "no gain"),
        (-2.0, -5.0, 0.0, "no gain"),
        (1.0, -1.0, 3.1, "undecided"),
        (5.0, 0.0, 10.0, "undecided"),
        (-2.0, -9.0, 4.0, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_ends_of_the_interval(points, low, high, word):
    verdict = judged(gain(points, low, high), bare=20.0, candidates=2)
    assert verdict.word == word
    assert not verdict.why
    assert (verdict.needed is not None) == (word == "undecided")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"bare": 1.0, "candidates": 6},
            "accuracy without it is 1.0 %, and a verdict needs more than 1 %",
        ),
        ({"bare": 20.0, "candidates": 1}, "the attack chooses from 1 candidate"),
        ({"bare": 20.0, "candidates": 6, "failed": "steps: more leave more"}, "more leave more"),
    ],
)
def test_nothing_is_told_from_one_candidate_a_failed_card_or_a_network_that_has_fallen(given, why):
    verdict = judged(gain(50.0, 40.0, 60.0), **given)
    assert verdict.word == "cannot tell"
    assert why in verdict.why
    assert judged(gain(50.0, 40.0, 60.0), bare=1.01, candidates=2).word == "holds"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-9.0, -1.0, "harms"),
        (-4.0, 3.0, "no gain"),
        (-4.0, 3.1, "cannot tell"),
        (1.0, 9.0, "cannot tell"),
    ],
)
def test_of_an_upper_bound_only_harm_and_no_gain_are_told(low, high, word):
    found = gain((low + high) / 2, low, high)
    verdict = judged(found, bare=20.0, candidates=2, weak="more steps leave more")
    assert verdict.word == word
    assert verdict.why == "more steps leave more"
    assert not verdict.fallen
    for bare, failed, fallen in ((20.0, "card", False), (1.0, "card", False), (1.0, None, True)):
        verdict = judged(found, bare=bare, candidates=2, failed=failed, weak="more leave more")
        assert (verdict.word, verdict.fallen) == ("cannot tell", fallen)


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        # holds once the lower half, 5 points, is below the gain of 4: 200 * (5 / 4)**2 = 312.5
        (gain(4.0, -1.0, 9.0), 320),
        # no gain once the upper half, 4 points, is below 3 - 1: 200 * 4; holds once 6 is below 1
        (gain(1.0, -5.0, 5.0), 800),
        # no gain, 200 * (6 / 5)**2, long before it harms
        (gain(-2.0, -8.0, 4.0), 290),
        # three images of 60 differ, all to one side: eight such are the fewest that tell
        (gain(5.0, 0.0, 11.5, 60), 160),
        # what has just failed to decide does not decide
        (gain(20.0, 0.0, 40.0, 100), 110),
        # the gain stands at the border of what is negligible: only that it holds can be shown
        (gain(3.0, -1.5, 7.5), 450),
    ],
)
def test_the_number_of_images_that_decides_comes_from_intervals_that_narrow_by_its_root(
    found, needed
):
    assert deciding_images(found) == needed


def test_the_change_is_of_shares_of_redraws_in_points_and_signed_as_the_test_has_it():
    generator = np.random.default_rng(0)
    defended = generator.random((400, 3)) < 0.5
    bare = generator.random((400, 1)) < 0.4
    found = change([defended], [bare])
    assert found.points == pytest.approx(100 * (defended.mean() - bare.mean()))
    assert found.low < found.points < found.high
    assert found.images == 400
    assert found.rises == (sign_flip_test(summed_shares([defended], [bare])[0]) <= 0.01)


def test_a_difference_of_gains_is_of_four_answers_and_no_end_lies_beyond_what_is_possible():
    generator = np.random.default_rng(0)
    one, two, three, four = (generator.random((300, 2)) < rate for rate in (0.8, 0.3, 0.3, 0.3))
    found = change([one, two], [three, four])
    expected = 100 * (one.mean() + two.mean() - three.mean() - four.mean())
    assert found.points == pytest.approx(expected)
    assert found.rises
    few = change([one[:3]], [two[:3]])
    assert (few.low, few.high) == (-100, 100)
