"""Findings on whether a model and the attacks on it make sense, from results that exist anyway.

No passes are made for them. Accuracies are in percent, counts are of images.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.evaluation.statistics import wilson_interval
from tasks.integrity.findings import Finding, found, margin, skipped

BELOW_PUBLISHED = 5.0
"""Percentage points by which a clean accuracy may be below that published for its checkpoint."""
BELOW_TRAINING = 20.0
"""Percentage points by which it may be below the accuracy on training images."""
LEFT_UNTARGETED, LEFT_TARGETED = 0.8, 0.9
"""Shares of the clean accuracy above which an attack does not break the undefended model."""
ZERO_GRADIENTS = 0.1
"""Share of images with a zero gradient above which an attack says nothing."""


def outputs(seen: Mapping[str, int]) -> Finding:
    """Check that a network answers with logits, not with probabilities or other values in [0, 1].

    seen: see `tasks.evaluation.seen.Seen`.
    """
    images, unit = seen.get("answers", 0), seen.get("in_unit_range", 0)
    if not images:
        return skipped("outputs", "no answers were looked at")
    whole = seen.get("sum_to_one", 0)
    measured = {"images": images, "in [0, 1]": unit, "sum to 1": whole}
    if unit < images:
        return found("outputs", measured, f"the outputs for {images} images are logits")
    what = "probabilities, which sum to 1" if whole == images else "between 0 and 1"
    words = (
        f"the outputs for all of {images} images are {what}, and no logits: gradients, defenses "
        "that follow them and means over draws are not those of the network; remove its last "
        f"{'softmax' if whole == images else 'sigmoid'}"
    )
    return found("outputs", measured, words, fails=True)


def clean_accuracy(
    right: float,
    images: int,
    *,
    chance: float,
    published: float | None = None,
    trained: float | None = None,
) -> Finding:
    """Check that the undefended model is better than chance, and as good as it is known to be.

    Args:
        right: Correct answers without an attack, 0 to `images`; may be a sum of shares.
        images: Number of images.
        chance: Accuracy by chance, in percent.
        published: Accuracy published for the checkpoint, in percent.
        trained: Accuracy at the end of training, on the training images, in percent.
    """
    low, high = (100 * end for end in wilson_interval(right, images))
    accuracy = 100 * right / images
    known = {"chance": chance, "published": published, "trained": trained}
    measured = {name: value for name, value in known.items() if value is not None}
    measured["accuracy"] = accuracy
    said = f"the clean accuracy is {accuracy:.1f} % of {images} images"
    if high < chance:
        words = (
            f"{said}, less than chance ({chance:.1f} %): the labels are probably in another order "
            "than the network's classes"
        )
        return found("clean-accuracy", measured, words, fails=True)
    if low <= chance:
        words = (
            f"{said}, no better than chance ({chance:.1f} %): the pixel range, mean and std, "
            "the classes' order or the weights are probably not what the network expects"
        )
        return found("clean-accuracy", measured, words, fails=True)
    if published is not None and high < published - BELOW_PUBLISHED:
        words = (
            f"{said}, far below the {published:.1f} % that are published for the checkpoint: "
            "mean and std, the order of channels or classes, or the network are probably not its "
            "own"
        )
        return found("clean-accuracy", measured, words, fails=True)
    if trained is not None and high < trained - BELOW_TRAINING:
        words = (
            f"{said}, far below the {trained:.1f} % at the end of its training: test images "
            "differ from training images, or the network only knows these by heart"
        )
        return found("clean-accuracy", measured, words, warns=True)
    return found("clean-accuracy", measured, said)


def gradients(seen: Mapping[str, int]) -> Finding:
    """Check that the first gradients of an attack are finite and not zero.

    seen: see `tasks.evaluation.seen.Seen`.
    """
    images = seen.get("gradients", 0)
    if not images:
        return skipped("attack-gradient", "no gradient was looked at")
    zero, broken = seen.get("zero_gradients", 0), seen.get("broken_gradients", 0)
    measured = {"images": images, "zero": zero, "not finite": broken}
    if broken:
        words = f"its first gradient is not finite for {broken} of {images} images"
        return found("attack-gradient", measured, words, fails=True)
    words = f"its first gradient is zero for {zero} of {images} images"
    if zero > ZERO_GRADIENTS * images:
        words += ", so what it leaves says nothing about the model or a defense"
        return found("attack-gradient", measured, words, fails=True)
    return found("attack-gradient", measured, words, warns=zero > margin(images))


def breaks(left: float, clean: float, *, targeted: bool) -> Finding:
    """Check that an attack lowers the accuracy of the undefended model by much.

    Args:
        left: Accuracy under the attack, in percent.
        clean: Accuracy without an attack, in percent.
        targeted: Whether the attack is targeted.
    """
    most = LEFT_TARGETED if targeted else LEFT_UNTARGETED
    measured = {"left": left, "clean": clean}
    words = f"it leaves {left:.1f} of {clean:.1f} % of the undefended model"
    if left > most * clean:
        words += (
            ", so there is little that a defense could gain: the attack is weak, its size is "
            "small, or the model is robust to it"
        )
        return found("attack-breaks", measured, words, warns=True)
    return found("attack-breaks", measured, words)


def counted(facts: Mapping[str, object]) -> dict[str, int]:
    """Return the counts of `tasks.evaluation.seen.Seen` in facts, if they have any."""
    counts = facts.get("seen")
    if not isinstance(counts, Mapping):
        return {}
    return {str(name): count for name, count in counts.items() if isinstance(count, int)}
