"""Checks of an integrity card on stored answers, without new predictions or attacks.

Answers are bool [N, R]: whether each redraw of each image is right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.statistics import wilson_interval
from tasks.integrity.findings import Finding, beyond_interval, found, grows

Answers = NDArray[np.bool_]


def adaptive_not_above(adaptive: Answers, other: Answers, name: str) -> Finding:
    """Check that an adaptive attack leaves no higher accuracy than another attack.

    Both are on the same images. An accuracy that is higher by an image or more is a warning
    within the 95 % Wilson interval; the redraws of a randomised defense differ by less by chance.

    Args:
        adaptive: Answers under the adaptive attack.
        other: Answers under the other attack.
        name: The other attack.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if len(adaptive) != len(other):
        raise ValueError(f"{len(adaptive)} images cannot be compared with {len(other)}")
    images = len(adaptive)
    own, least = _right(adaptive), _right(other)
    measured = {"adaptive": 100 * own / images, "other": 100 * least / images}
    # by one image or more; integer counts over common redraws, since shares such as 1/3 are inexact
    redraws = adaptive.shape[1] * other.shape[1]
    excess = int(adaptive.sum()) * other.shape[1] - int(other.sum()) * adaptive.shape[1]
    higher = excess >= redraws
    words = (
        f"the adaptive attack leaves {measured['adaptive']:.1f} % of {images} images, {name} "
        f"{measured['other']:.1f} %"
    )
    if higher:
        words += ", so what the adaptive attack leaves is an upper bound"
    fails = beyond_interval(own, least, images)
    return found("adaptive", measured, words, fails=fails, warns=higher)


def oblivious_steps(by_steps: Mapping[int, Answers]) -> Finding:
    """Check that more steps of an oblivious attack leave no higher accuracy.

    On the model under attack this would fail a card. Examples made on another model may transfer
    worse with more steps, so here it is a warning.

    Args:
        by_steps: Answers under attacks of one kind, by their number of steps.

    Raises:
        ValueError: If the numbers of images differ.
    """
    ordered = dict(sorted(by_steps.items()))
    counts = {len(answers) for answers in ordered.values()}
    if len(counts) != 1:
        raise ValueError(f"answers about {sorted(counts)} images cannot be compared")
    (images,) = counts
    rights = [_right(answers) for answers in ordered.values()]
    measured = {
        f"{steps} steps": 100 * right / images for steps, right in zip(ordered, rights, strict=True)
    }
    higher = grows(rights, images)
    words = (
        f"the oblivious accuracy {'grows' if higher else 'does not grow'} with the attack's steps: "
        + ", ".join(f"{accuracy:.1f} % after {steps}" for steps, accuracy in measured.items())
    )
    return found("oblivious-steps", measured, words, warns=higher)


def fallen_stay_wrong(answers: Answers, fallen: int) -> Finding:
    """Check that images on which the model failed to the attacker are wrong in the score too.

    For deterministic models. Their answers in reduced precision depend slightly on the other images
    of a batch, so an image that was broken by a small margin, and attacked no further, can be
    answered rightly when it is scored. The accuracy is then too high by as much, which is a
    warning.

    Args:
        answers: The stored answers.
        fallen: Number of images on which the attacker saw the model fail.
    """
    images = len(answers)
    right, standing = _right(answers), images - fallen
    more = right - standing
    words = f"the attack broke {fallen} of {images} images, and {right:g} are right when scored"
    if more > 0:
        words += (
            f": the accuracy may be {100 * more / images:.1f} points too high, since answers in "
            "reduced precision depend on the batch; `precision: float32` avoids this"
        )
    measured = {"standing": float(standing), "right": right}
    return found("fallen", measured, words, warns=more > 0)


def scored_again(answers: Answers, stored: Mapping[str, object]) -> Finding:
    """Check that scoring the stored answers again gives the stored score.

    Args:
        answers: The stored answers.
        stored: Facts of a `tasks.evaluation.score.Score`, in percent.
    """
    images = len(answers)
    right = _right(answers)
    low, high = wilson_interval(right, images)
    again: dict[str, object] = {
        "images": images,
        "redraws": answers.shape[1],
        "accuracy": 100 * right / images,
        "interval": (100 * low, 100 * high),
        "right_in_every_redraw": 100 * float(answers.all(axis=1).mean()),
    }
    wrong = [name for name, value in again.items() if not _same(value, stored.get(name))]
    words = "scoring again from the stored answers gives the stored score"
    if wrong:
        name = wrong[0]
        words = f"{name} is stored as {stored.get(name)}, the stored answers give {again[name]}"
    measured = {"accuracy": 100 * right / images}
    return found("scored-again", measured, words, fails=bool(wrong))


def _right(answers: Answers) -> float:
    """Return the sum over images of the share of right redraws, exact if it is an integer."""
    right = int(answers.sum())
    return right / int(answers.shape[1])


def _same(value: object, stored: object) -> bool:
    try:
        return bool(np.allclose(value, stored, rtol=0, atol=1e-6))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
