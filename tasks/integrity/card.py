"""The integrity card: attacks on one model whose results must be consistent if its numbers hold.

Every attack here is made on the model that is judged. A fault of the defense or the classifier in
an attack becomes a finding, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.data.arrays import Images, require
from tasks.defenses.base import Context
from tasks.evaluation.specs import CardSpec
from tasks.evaluation.stages import BadDefense
from tasks.integrity import descents as checks
from tasks.integrity import rivals
from tasks.integrity.findings import Finding, found, skipped
from tasks.integrity.subject import Subject
from tasks.progress import Progress, Tell, silent

BY_GRADIENT = (
    "epsilon-zero",
    "steps",
    "last-iterate",
    "epsilon",
    "chance",
    "corners",
    "frozen-draw",
    "square",
    "convergence",
)
"""The checks that need attacks, in their order."""


def card(
    images: Images, context: Context, spec: CardSpec, *, batch_size: int, tell: Tell = silent
) -> list[Finding]:
    """Return the findings on the model made of `spec.against` and the context's classifier.

    Args:
        images: The first `spec.images` test images.
        context: The classifier, and a pool if the defense needs one.
        spec: What to check.
        batch_size: Images, or draws of images, per forward pass.
        tell: Called with the progress.

    Raises:
        BadTensor: If number of images or precision are not the spec's.
    """
    frozen = context.classifier
    require(len(images) == spec.images, f"card: expected {spec.images} images, got {len(images)}")
    require(
        frozen.precision == spec.precision,
        f"card: expected a classifier in {spec.precision}, got {frozen.precision}",
    )
    subject = Subject(images, context, spec, batch_size=batch_size)
    before = unchanged(frozen)
    alone = _guarded("alone", lambda: checks.alone(subject))
    gradient = _guarded("gradient", lambda: checks.gradient(subject))
    attacked: list[Finding] = []
    try:
        for finding in _by_gradient(subject):
            attacked.append(finding)
            tell(Progress(len(attacked), len(BY_GRADIENT), finding.check))
    except BadDefense as error:
        attacked += _not_made(BY_GRADIENT[len(attacked) :], error, known=gradient)
    ball = rivals.inside_the_ball(subject)
    after = unchanged(frozen) if before.verdict == "pass" else before
    return [after, alone, gradient, *attacked, ball]


def unchanged(frozen: Frozen) -> Finding:
    """Check that the classifier is in eval mode, with the weights that were frozen."""
    try:
        frozen.check()
    except NotFrozen as error:
        return found("frozen", {}, str(error), fails=True)
    return found("frozen", {}, "the classifier is in eval mode and its weights have not changed")


def _by_gradient(subject: Subject) -> Iterator[Finding]:
    yield checks.epsilon_zero(subject)
    descents = checks.descents(subject)
    yield checks.steps(subject, descents)
    yield checks.last_iterate(subject, descents)
    yield from checks.epsilons(subject, descents)
    yield rivals.corners(subject, descents)
    yield rivals.frozen_draw(subject)
    yield rivals.square(subject, descents)
    yield rivals.convergence(subject, descents)


def _guarded(check: str, made: Callable[[], Finding]) -> Finding:
    try:
        return made()
    except BadDefense as error:
        return found(check, {}, str(error), fails=True)


def _not_made(left: tuple[str, ...], error: BadDefense, *, known: Finding) -> list[Finding]:
    """Return findings for the checks that a faulty defense stopped.

    The first of them fails, unless `known` has failed for the defense already.
    """
    failed = [] if known.verdict == "fail" else [found(left[0], {}, str(error), fails=True)]
    return failed + [skipped(check, str(error)) for check in left[len(failed) :]]
