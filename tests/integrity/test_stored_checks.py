"""Checks of stored answers."""

import numpy as np
import pytest
import torch

from tasks.data.arrays import Outcomes
from tasks.evaluation.score import score
from tasks.integrity.stored import (
    adaptive_not_above,
    fallen_stay_wrong,
    oblivious_steps,
    scored_again,
)


def answers(right: int, images: int = 100, redraws: int = 1) -> np.ndarray:
    found = np.zeros((images, redraws), dtype=bool)
    found[:right] = True
    return found


def test_an_adaptive_attack_that_leaves_more_than_another_one_is_a_warning_or_a_failure():
    assert adaptive_not_above(answers(10), answers(10, redraws=3), "pgd").verdict == "pass"
    assert adaptive_not_above(answers(12), answers(10, redraws=3), "pgd").verdict == "warn"
    finding = adaptive_not_above(answers(40), answers(10), "pgd")
    assert finding.verdict == "fail"
    assert finding.measured == {"adaptive": 40.0, "other": 10.0}
    assert finding.words == (
        "the adaptive attack leaves 40.0 % of 100 images, pgd 10.0 %, so what the adaptive attack "
        "leaves is an upper bound"
    )


def test_shares_of_redraws_that_are_equal_are_equal_whatever_their_number():
    # 2/3 of three redraws and 10/15 of fifteen: as sums of floats these differ
    few = np.tile([True, True, False], (101, 1))
    many = np.tile([True, True, False], (101, 5))
    assert adaptive_not_above(few, many, "pgd").verdict == "pass"
    assert adaptive_not_above(many, few, "pgd").verdict == "pass"
    fewer = many.copy()
    fewer[0] = fewer[1, :4] = False
    assert adaptive_not_above(few, fewer, "pgd").verdict == "pass"
    fewer[1] = fewer[2, :4] = False
    assert adaptive_not_above(few, fewer, "pgd").verdict == "warn"


def test_a_difference_of_less_than_an_image_is_chance():
    more, less = answers(12, redraws=3), answers(12, redraws=3)
    less[0, :2] = False
    assert adaptive_not_above(more, less, "pgd").verdict == "pass"
    less[0] = False
    assert adaptive_not_above(more, less, "pgd").verdict == "warn"


@pytest.mark.parametrize("images", [13, 15, 17, 19, 100, 603])
def test_accuracies_that_are_all_full_do_not_grow(images):
    full = answers(images, images)
    assert oblivious_steps({10: full, 50: full}).verdict == "pass"
    assert adaptive_not_above(full, full, "pgd").verdict == "pass"


def test_answers_about_other_images_are_not_compared():
    with pytest.raises(ValueError, match="100 images cannot be compared with 90"):
        adaptive_not_above(answers(10), answers(10, images=90), "pgd")
    with pytest.raises(ValueError, match="cannot be compared"):
        oblivious_steps({10: answers(3), 50: answers(3, images=90)})


def test_oblivious_accuracy_that_grows_with_the_steps_is_a_warning():
    assert oblivious_steps({200: answers(9), 10: answers(10), 50: answers(11)}).verdict == "pass"
    finding = oblivious_steps({50: answers(60), 10: answers(30)})
    assert finding.verdict == "warn"
    assert finding.words.endswith(
        "grows with the attack's steps: 30.0 % after 10 steps, 60.0 % after 50 steps"
    )


def outcomes() -> Outcomes:
    generator = torch.Generator().manual_seed(5)
    probabilities = torch.rand(30, 4, 3, generator=generator).softmax(dim=2)
    return Outcomes(probabilities, torch.arange(30) % 3, torch.arange(30))


def test_a_score_is_what_its_answers_give():
    found = outcomes()
    finding = scored_again(found.correct.numpy(), score(found).model_dump())
    assert finding.verdict == "pass"
    assert finding.measured["accuracy"] == pytest.approx(score(found).accuracy)


@pytest.mark.parametrize(
    "fact", ["images", "redraws", "accuracy", "interval", "right_in_every_redraw"]
)
def test_a_score_that_its_answers_do_not_give_is_caught(fact):
    found = outcomes()
    stored = score(found).model_dump()
    value = stored[fact]
    stored[fact] = (value[0], value[1] + 1) if fact == "interval" else value + 1
    finding = scored_again(found.correct.numpy(), stored)
    assert finding.verdict == "fail"
    assert finding.words.startswith(f"{fact} is stored as")
    del stored[fact]
    assert scored_again(found.correct.numpy(), stored).verdict == "fail"


def test_an_image_that_fell_and_is_right_in_the_score_is_a_warning() -> None:
    answers = np.array([[True]] * 3 + [[False]] * 7)
    kept = fallen_stay_wrong(answers, fallen=7)
    assert kept.verdict == "pass"
    assert kept.measured == {"standing": 3, "right": 3}
    # one may also fall only when it is scored
    assert fallen_stay_wrong(answers, fallen=6).verdict == "pass"
    moved = fallen_stay_wrong(answers, fallen=9)
    assert moved.verdict == "warn"
    assert "the attack broke 9 of 10 images" in moved.words
    assert "may be 20.0 points too high" in moved.words
