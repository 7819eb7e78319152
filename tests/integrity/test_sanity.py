"""Whether a model, and the attacks on it, make sense at all."""

from __future__ import annotations

import pytest

from tasks.integrity.findings import Finding
from tasks.integrity.sanity import breaks, clean_accuracy, gradients, outputs


@pytest.mark.parametrize(
    ("right", "images", "verdict", "words"),
    [
        (6, 60, "fail", "10.0 % of 60 images, no better than chance (10.0 %)"),
        (1, 60, "fail", "1.7 % of 60 images, less than chance (10.0 %): the labels"),
        (37, 100, "pass", "the clean accuracy is 37.0 % of 100 images"),
        (0, 60, "fail", "less than chance"),
        (60, 60, "pass", "100.0 %"),
    ],
)
def test_a_clean_accuracy_is_compared_with_chance(
    right: int, images: int, verdict: str, words: str
) -> None:
    finding = clean_accuracy(right, images, chance=10.0)
    assert finding.verdict == verdict
    assert words in finding.words


def test_chance_is_the_most_frequent_class() -> None:
    assert clean_accuracy(55, 100, chance=50.0).verdict == "fail"
    assert clean_accuracy(65, 100, chance=50.0).verdict == "pass"


@pytest.mark.parametrize(
    ("right", "verdict"), [(37, "fail"), (79, "fail"), (85, "pass"), (92, "pass"), (100, "pass")]
)
def test_a_clean_accuracy_is_compared_with_the_published_one(right: int, verdict: str) -> None:
    finding = clean_accuracy(right, 100, chance=10.0, published=91.7)
    assert finding.verdict == verdict
    if verdict == "fail":
        assert "far below the 91.7 % that are published for the checkpoint" in finding.words


def test_a_clean_accuracy_far_below_that_of_the_training_is_a_warning() -> None:
    assert clean_accuracy(95, 100, chance=10.0, trained=100.0).verdict == "pass"
    finding = clean_accuracy(50, 100, chance=10.0, trained=99.0)
    assert finding.verdict == "warn"
    assert "far below the 99.0 % at the end of its training" in finding.words
    # training mixes images, and its accuracy may well be below that of clean ones
    assert clean_accuracy(90, 100, chance=10.0, trained=60.0).verdict == "pass"


def seen(**counts: int) -> Finding:
    return outputs({"answers": 60, "in_unit_range": 0, "sum_to_one": 0, **counts})


def test_outputs_that_are_probabilities_fail_and_logits_pass() -> None:
    assert seen().verdict == "pass"
    finding = seen(in_unit_range=60, sum_to_one=60)
    assert finding.verdict == "fail"
    assert "all of 60 images are probabilities, which sum to 1, and no logits" in finding.words
    assert "remove its last softmax" in finding.words
    finding = seen(in_unit_range=60)
    assert finding.verdict == "fail"
    assert "are between 0 and 1, and no logits" in finding.words
    assert seen(in_unit_range=59, sum_to_one=3).verdict == "pass"
    assert outputs({}).verdict == "skipped"


@pytest.mark.parametrize(
    ("zero", "broken", "verdict"),
    [
        (0, 0, "pass"),
        (1, 0, "pass"),
        (3, 0, "warn"),
        (60, 0, "fail"),
        (7, 0, "fail"),
        (0, 1, "fail"),
    ],
)
def test_gradients_that_are_zero_or_not_finite(zero: int, broken: int, verdict: str) -> None:
    finding = gradients({"gradients": 60, "zero_gradients": zero, "broken_gradients": broken})
    assert finding.verdict == verdict
    assert f"{broken or zero} of 60 images" in finding.words


def test_an_attack_without_gradients_is_not_judged_by_them() -> None:
    assert gradients({"gradients": 0}).verdict == "skipped"


@pytest.mark.parametrize(
    ("left", "clean", "targeted", "verdict"),
    [
        (85.0, 93.3, False, "warn"),
        (82.0, 93.3, False, "warn"),
        (0.0, 90.2, False, "pass"),
        (26.5, 52.5, False, "pass"),
        # an adversarially trained network gives way to targeted attacks less
        (46.0, 52.5, True, "pass"),
        (90.0, 93.3, True, "warn"),
    ],
)
def test_an_attack_that_does_not_break_the_undefended_model_is_told(
    left: float, clean: float, targeted: bool, verdict: str
) -> None:
    finding = breaks(left, clean, targeted=targeted)
    assert finding.verdict == verdict
    if verdict == "warn":
        assert f"leaves {left:.1f} of {clean:.1f} % of the undefended model" in finding.words
        assert "little that a defense could gain" in finding.words
