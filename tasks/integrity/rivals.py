"""Checks of an integrity card that compare other attacks with gradient attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.square import Square
from tasks.data.seeding import Rows
from tasks.evaluation.defend import single_draw_logits
from tasks.integrity.descents import Descents
from tasks.integrity.findings import Finding, beyond_interval, found, margin, skipped
from tasks.integrity.subject import Subject

MOVE = 100
"""A larger budget may lower the accuracy by one in so many images without a warning."""


def corners(subject: Subject, descents: Descents) -> Finding:
    """Check that random corners of the ball fool the model on no more images than gradients do."""
    spec = subject.spec
    ball = subject.climb(spec.epsilon).ball()
    right = torch.ones_like(subject.labels, dtype=torch.bool)
    for corner in range(spec.corners):
        rows = subject.rows.within("corner").at(corner)
        drawn = rows.normal("direction", subject.pixels[0].numel()).view_as(subject.pixels)
        step = ball.radius * ball.steepest(drawn)
        right &= subject.right(ball.project(subject.pixels + step, subject.pixels))
    by_corners, by_gradients = int((~right).sum()), len(subject) - descents.lowest
    words = (
        f"{spec.corners} random corners of the ball fool it on {by_corners} of {len(subject)} "
        f"images, gradients on {by_gradients}"
    )
    measured = {"by corners": by_corners, "by gradients": by_gradients}
    return found("corners", measured, words, fails=by_corners > by_gradients + margin(len(subject)))


def frozen_draw(subject: Subject) -> Finding:
    """Check that a fixed draw falls to its own gradient as often as to the bare model's examples.

    It may keep more than the bare model: one draw of an honest defense can be more robust.
    """
    spec, context = subject.spec, subject.context
    rules = spec.against.gradients()
    # an adaptive attack differentiates the surrogate, too, if there is one
    climbed = replace(context, rule="surrogate" if "surrogate" in rules else rules[0])

    def one_draw(points: Tensor, rows: Rows) -> Tensor:
        still = rows.within("frozen")
        return single_draw_logits(spec.against, climbed, points, still, draws=1)[:, 0]

    def bare(points: Tensor, rows: Rows) -> Tensor:  # noqa: ARG001
        return context.classifier.logits(points)

    by_own, by_bare = (
        _right(subject, one_draw, _climbed(subject, model)) for model in (one_draw, bare)
    )
    measured = {"own gradient": subject.percent(by_own), "replayed": subject.percent(by_bare)}
    words = (
        f"with one fixed draw it keeps {measured['own gradient']:.1f} % under its own gradient, "
        f"{measured['replayed']:.1f} % under examples made on the bare model"
    )
    fails = beyond_interval(by_own, by_bare, len(subject))
    return found("frozen-draw", measured, words, fails=fails)


def square(subject: Subject, descents: Descents) -> Finding:
    """Check that Square, which needs no gradient, does not find what gradients miss."""
    spec = subject.spec
    if not spec.queries:
        return skipped("square", "there is no budget for queries")
    attack = Square(norm=spec.norm, epsilon=spec.epsilon, queries=spec.queries)
    left = subject.count_right(subject.attacked(attack, draws=spec.query_draws))
    measured = {"square": subject.percent(left), "gradients": subject.percent(descents.lowest)}
    words = (
        f"Square leaves {measured['square']:.1f} % after {spec.queries} queries, "
        f"gradients {measured['gradients']:.1f} %"
    )
    fails = left < descents.lowest - margin(len(subject))
    return found("square", measured, words, fails=fails)


def convergence(subject: Subject, descents: Descents) -> Finding:
    """Check that twice the steps and draws lower the accuracy by a percentage point at most."""
    spec = subject.spec
    if not spec.converges:
        return skipped("convergence", "there is no budget for twice the steps")
    steps, draws = 2 * spec.climb_steps, 2 * spec.draws
    attack = subject.climb(spec.epsilon, steps=steps)
    right = subject.count_right(subject.attacked(attack, draws=draws))
    budget, larger = f"{spec.climb_steps} steps of {spec.draws}", f"{steps} steps of {draws} draws"
    measured = {
        budget: subject.percent(descents.climbed),
        larger: subject.percent(right),
    }
    moved = measured[budget] - measured[larger]
    warns = MOVE * (descents.climbed - right) > len(subject)
    words = f"{larger} lower the {subject.accuracy} of {budget} by {max(moved, 0.0):.1f} points"
    return found("convergence", measured, words, warns=warns)


def inside_the_ball(subject: Subject) -> Finding:
    """Check that all points made by attacks are finite, in their ball and in [0, 1]."""
    measured = {"points": subject.made, "outside": subject.outside}
    words = f"{subject.outside} of {subject.made} attacked images left their ball or [0, 1]"
    if not subject.made:
        return skipped("ball", "there was no attack")
    return found("ball", measured, words, fails=subject.outside > 0)


Ask = Callable[[Tensor, Rows], Tensor]
"""A model whose draws are fixed: from points and their rows to logits, float32 [n, classes]."""


def _climbed(subject: Subject, ask: Ask) -> Tensor:
    """Return the points of an APGD run on a model, float32 [N, C, H, W] in [0, 1]."""
    classes = subject.context.classifier.classes

    def victim(rows: Rows) -> Victim:
        return Victim(lambda points, _: ask(points, rows), classes)

    return subject.attacked(subject.climb(subject.spec.epsilon), victim=victim, draws=1)


def _right(subject: Subject, ask: Ask, points: Tensor) -> int:
    """Return how many points, one for each image, a model classifies correctly."""
    with torch.no_grad():
        right = [
            (ask(points[part], subject.rows[part].within("attack")).argmax(dim=1))
            == subject.labels[part]
            for part in subject.batches(1)
        ]
    return int(torch.cat(right).sum())
