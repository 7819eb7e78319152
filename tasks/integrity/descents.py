"""Checks of an integrity card on the judged model itself and on gradient attacks.

Accuracies are of one answer for each image, on the same draws for every attack. An accuracy counts
as higher than another if it is above that one's 95 % Wilson interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.fgsm import FGSM
from tasks.attacks.search.descent import descend, loss_gradient, random_start
from tasks.attacks.search.objectives import Goal
from tasks.data.seeding import Rows
from tasks.evaluation.statistics import wilson_interval
from tasks.integrity.costs import ALONE, MULTIPLES
from tasks.integrity.findings import Finding, beyond_interval, found, grows, margin
from tasks.integrity.subject import Subject
from tasks.specs import Precision

LARGE = 128.0
"""Epsilon, in 1/255, at which no more than chance accuracy can remain."""

PARTS = 5
"""Number of parts in which the steps of PGD are examined, since the draws of one step may be
lucky."""

NOISE: dict[Precision, float] = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 0.3}
"""Largest relative change of a logit with the composition of its batch."""


@dataclass(frozen=True)
class Descents:
    """Numbers of correct answers after attacks of increasing strength."""

    clean: int
    """Without an attack."""
    fgsm: int
    """After FGSM."""
    climbed: int
    """After APGD."""
    by_steps: dict[int, int]
    """After PGD, by its number of steps."""
    seen: tuple[int, ...]
    """What the longest PGD saw itself at each step, on its own draws."""

    @property
    def lowest(self) -> int:
        """What the strongest of the attacks leaves."""
        return min(self.fgsm, self.climbed, *self.by_steps.values())


def alone(subject: Subject) -> Finding:
    """Check that an image asked alone gets the same logits as in a small and in a full batch."""
    few = slice(0, ALONE)
    ones = [slice(place, place + 1) for place in range(len(subject.pixels[few]))]
    apart = torch.cat([subject.answer(subject.pixels[one], one) for one in ones])
    batches = {
        "median change": subject.answer(subject.pixels[few], few),
        "in a full batch": subject.crowded()[few],
    }
    measured = {name: _typical_change(apart, together) for name, together in batches.items()}
    largest = max(measured.values(), key=lambda change: (math.isnan(change), change))
    fails = not largest <= NOISE[subject.spec.precision]
    words = f"{len(apart)} images get alone the answers that they get in a batch"
    if fails:
        words = (
            f"answers depend on the batch: alone, logits move by {largest:.1%} of their size "
            "(the images of a batch may share their draws)"
        )
    return found("alone", measured, words, fails=fails)


def _typical_change(apart: Tensor, together: Tensor) -> float:
    """Return the median over images of the largest change of a logit, as a share of its size.

    The median, since the sign of a gradient that is nearly zero may flip with the batch.

    Args:
        apart: Logits of images asked alone, float32 [N, draws, classes].
        together: Logits of the first of these images, and of their first draws.
    """
    changes = together - apart[: len(together), : together.shape[1]]
    sizes = together.abs().flatten(1).amax(dim=1)
    return float((changes.abs().flatten(1).amax(dim=1) / sizes).median())


def gradient(subject: Subject) -> Finding:
    """Check that a gradient of the margin and of the cross-entropy reaches every image."""
    stuck = saturated = broken = 0
    for part in subject.batches(subject.spec.draws):
        victim = subject.victim(subject.rows[part].within("gradient"), subject.spec.draws)
        goal = Goal(subject.labels[part])
        with torch.enable_grad():
            leaf = subject.pixels[part].detach().requires_grad_()
            logits = victim.logits(leaf, 0)
            margins = goal.objective(logits, "margin").sum()
            entropies = goal.objective(logits, "cross-entropy").sum()
            (of_margin,) = torch.autograd.grad(margins, leaf, retain_graph=True)
            (of_entropy,) = torch.autograd.grad(entropies, leaf)
        size = of_margin.abs().flatten(1).amax(dim=1)
        stuck += int((size == 0).sum())
        broken += int((~torch.isfinite(size)).sum())
        saturated += int((of_entropy == 0).flatten(1).all(dim=1).sum())
    measured = {"zero": stuck, "zero for the cross-entropy": saturated, "not finite": broken}
    images = len(subject)
    if broken:
        words = f"the gradient is not finite for {broken} of {images} images"
    elif stuck:
        words = f"the gradient is zero for {stuck} of {images} images"
    elif saturated:
        words = (
            f"the gradient of the cross-entropy alone is zero for {saturated} of {images} images"
        )
    else:
        words = f"a gradient reaches all {images} images"
    fails = broken > 0 or stuck > margin(images)
    warns = stuck > 0 or saturated > 0
    return found("gradient", measured, words, fails=fails, warns=warns)


def epsilon_zero(subject: Subject) -> Finding:
    """Check that an attack in a ball of radius 0 changes no pixel and keeps the clean accuracy."""
    points = subject.attacked(subject.climb(0.0, steps=1))
    moved = int((points != subject.pixels).flatten(1).any(dim=1).sum())
    clean, left = subject.count_right(subject.pixels), subject.count_right(points)
    measured = {"clean": subject.percent(clean), "at 0/255": subject.percent(left)}
    fails = moved > 0 or clean != left
    words = f"the {subject.accuracy} at epsilon 0 is that without an attack, "
    words += f"{measured['clean']:.1f} %"
    if fails:
        words = (
            f"at epsilon 0 the attack moves {moved} images, and the {subject.accuracy} is "
            f"{measured['at 0/255']:.1f} instead of {measured['clean']:.1f} %"
        )
    return found("epsilon-zero", measured, words, fails=fails)


def descents(subject: Subject) -> Descents:
    """Run FGSM, APGD and PGD, with PGD's iterates after each of the card's numbers of steps.

    With one step size and the same draws, a shorter PGD is the beginning of a longer one.
    """
    spec = subject.spec
    longest = spec.steps[-1]
    fgsm = FGSM(norm=spec.norm, epsilon=spec.epsilon)
    ball = fgsm.ball()
    seen = torch.zeros(longest, dtype=torch.int64)

    def perturb(victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        iterates: dict[int, Tensor] = {}

        def logits(points: Tensor, step: int) -> Tensor:
            answered = victim.logits(points, step)
            seen[step] += int((answered.argmax(dim=1) == labels).sum())
            return answered

        climb = loss_gradient(replace(victim, logits=logits), labels, targeted=False)

        def watched(points: Tensor, step: int) -> Tensor:
            if step in spec.steps:
                iterates[step] = points
            return climb(points, step)

        start, size = random_start(pixels, rows, ball=ball), ball.radius / 4
        last = descend(watched, pixels, start, ball=ball, step_size=size, steps=longest)
        return torch.stack([*iterates.values(), last], dim=1)

    points = subject.attacked(fgsm, perturb=perturb)
    rights = [subject.count_right(points[:, place]) for place in range(len(spec.steps))]
    return Descents(
        clean=subject.count_right(subject.pixels),
        fgsm=subject.count_right(subject.attacked(fgsm)),
        climbed=subject.count_right(subject.attacked(subject.climb(spec.epsilon))),
        by_steps=dict(zip(spec.steps, rights, strict=True)),
        seen=tuple(seen.tolist()),
    )


def steps(subject: Subject, descents: Descents) -> Finding:
    """Check that more steps leave no higher accuracy than fewer."""
    rights = [descents.fgsm, *descents.by_steps.values()]
    names = ["FGSM", *(f"PGD-{length}" for length in descents.by_steps)]
    measured = dict(zip(names, map(subject.percent, rights), strict=True))
    fails = grows(rights, len(subject))
    words = (
        f"the {subject.accuracy} {'grows' if fails else 'does not grow'} with the steps of an "
        "attack: "
        + ", ".join(f"{name} {accuracy:.1f}" for name, accuracy in measured.items())
        + " %"
    )
    return found("steps", measured, words, fails=fails)


def last_iterate(subject: Subject, descents: Descents) -> Finding:
    """Check that the last part of the longest PGD fools as many of its own draws as any part.

    The attacks behind a table keep their best point, so a weaker last part is only a warning.
    """
    part = -(-len(descents.seen) // PARTS)
    starts = range(len(descents.seen) % part, len(descents.seen), part)
    means = [sum(descents.seen[start : start + part]) / part for start in starts]
    measured = {"last": subject.percent(means[-1]), "lowest": subject.percent(min(means))}
    weaker = beyond_interval(means[-1], min(means), len(subject))
    words = (
        f"the longest descent is {'weaker' if weaker else 'not weaker'} in its last steps than "
        f"before: {measured['last']:.1f} % there, {measured['lowest']:.1f} % at its best"
    )
    return found("last-iterate", measured, words, warns=weaker)


def epsilons(subject: Subject, descents: Descents) -> tuple[Finding, Finding]:
    """Check that a larger ball leaves no higher accuracy, and a huge one no more than chance."""
    spec = subject.spec
    # The radius of the smallest l2 ball that contains the linf one.
    large = LARGE * (1.0 if spec.norm == "linf" else math.sqrt(subject.pixels[0].numel()))
    rights = {0.0: descents.clean, spec.epsilon: descents.climbed}
    for size in (*(multiple * spec.epsilon for multiple in MULTIPLES), large):
        points = subject.attacked(subject.climb(size))
        rights[size] = subject.count_right(points)
    rights = dict(sorted(rights.items()))
    measured = {f"{size:g}/255": subject.percent(right) for size, right in rights.items()}
    fails = grows(list(rights.values()), len(subject))
    grown = "grows" if fails else "does not grow"
    words = f"the {subject.accuracy} {grown} with epsilon: " + ", ".join(
        f"{accuracy:.1f} % at {size}" for size, accuracy in measured.items()
    )
    growth = found("epsilon", measured, words, fails=fails)
    chance = 1 / subject.context.classifier.classes
    left = {"accuracy": subject.percent(rights[large]), "chance": 100 * chance}
    lowest, _ = wilson_interval(rights[large], len(subject))
    words = f"{left['accuracy']:.1f} % are left at {large:g}/255; chance is {100 * chance:.1f} %"
    return growth, found("chance", left, words, fails=lowest > chance)
