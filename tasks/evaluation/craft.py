"""Making the adversarial examples of a shard, and checking stored ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.libraries.base import LibraryAttack
from tasks.attacks.search.geometry import Ball
from tasks.data.arrays import Crafted, Images, as_float, as_float_on, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.evaluation.seen import Seen
from tasks.evaluation.specs import CraftSpec
from tasks.evaluation.victim import defended, reporting
from tasks.progress import Progress, Tell, silent


def craft(
    images: Images,
    context: Context,
    spec: CraftSpec,
    *,
    batch_size: int,
    start: Crafted | None = None,
    tell: Tell = silent,
    seen: Seen | None = None,
) -> Crafted:
    """Make the examples of `spec.attack` from a shard's images.

    They are made against the context's bare classifier, or against the defense that the spec names.
    An example depends only on its own image.

    Args:
        images: The images of `spec.shard` in the test set's order, or, against a defense, any of
            them.
        context: The classifier, and a pool if the defense needs one.
        spec: What to make.
        batch_size: Images, or draws of images, per forward pass; it changes results at most by the
            rounding of sums.
        start: Examples of the same images at which the attack starts, for one with `perturb_from`.
        tell: Called with the progress.
        seen: Counts what the attack shows of the model.

    Returns:
        Tensors on the CPU.

    Raises:
        BadTensor: If the images are not the shard's, or the classifier has another precision.
        NotFrozen: If the attack changed the classifier.
    """
    _require_shard(images, spec)
    frozen = context.classifier
    require(
        frozen.precision == spec.precision,
        f"craft: expected a classifier in {spec.precision}, got {frozen.precision}",
    )
    if start is not None:
        require(torch.equal(start.ids, images.ids), "craft: the start is not of the shard's images")
    size = max(1, batch_size // ((spec.draws or 1) * _graphs(spec)))
    if isinstance(spec.attack, LibraryAttack):
        # it takes so many at a time whatever the batch; a hundred may take minutes
        size = spec.attack.images_at_once
    parts = []
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        count = len(batch)
        if spec.against is not None and count == 1:
            # a kernel may round a batch of one differently; with two copies, an image's example
            # does not depend on which other images are left
            batch = batch[torch.zeros(2, dtype=torch.int64)]
        victim = _victim(context, spec, _rows(batch, spec, frozen.device))
        if seen is not None:
            victim = seen.watched(victim, bare=spec.against is None)
        asked = _passes(spec, victim) * len(batch)
        if asked:
            victim = reporting(victim, asked, _of_batch(tell, first, count, len(images)))
        begin = None if start is None else start.pixels[first : first + size]
        crafted = _perturbed(batch, victim, spec, frozen.device, begin)
        parts.append(crafted[:count].detach().contiguous().cpu())
        tell(Progress(first + count, len(images)))
    frozen.check()
    return Crafted(
        pixels=torch.cat(parts) if parts else as_float(images.pixels.cpu()),
        labels=images.labels.cpu(),
        ids=images.ids.cpu(),
        targets=_targets(images, spec),
    )


def _perturbed(
    batch: Images, victim: Victim, spec: CraftSpec, device: torch.device, begin: Tensor | None
) -> Tensor:
    """Attack a batch, from `begin` if that is given, float32 [N or 1, C, H, W]."""
    rows, pixels = _rows(batch, spec, device), as_float_on(batch.pixels, device)
    labels = batch.labels.to(device)
    if begin is None:
        return spec.attack.perturb(victim, pixels, labels, rows)
    start = begin.expand_as(pixels).to(device)
    return spec.attack.perturb_from(victim, pixels, labels, rows, start=start)


def example_alone(
    images: Images, context: Context, spec: CraftSpec, *, start: Crafted | None = None
) -> Tensor:
    """Make the example of the first image in a batch of its own, float32 [1, C, H, W].

    It may differ from that of `craft`, whose arguments these are, by rounding.
    """
    device = context.classifier.device
    victim = _victim(context, spec, _rows(images[:1], spec, device))
    begin = None if start is None else start.pixels[:1]
    return _perturbed(images[:1], victim, spec, device, begin).detach().clone()


def _passes(spec: CraftSpec, victim: Victim) -> int:
    """Return how many times the attack asks the victim about each image, at most; 0 if unknown."""
    try:
        forwards = spec.attack.forwards_and_backwards().forwards
    except NotImplementedError:
        return 0
    return forwards + (spec.attack.judgements() if victim.judged else 0)


def _of_batch(tell: Tell, first: int, count: int, total: int) -> Callable[[float], None]:
    """Return a function that reports the finished share of a batch as progress of the shard."""
    return lambda share: tell(Progress(first + count * share, total))


def _graphs(spec: CraftSpec) -> int:
    """Return how many graphs of the network a row keeps: more if inner steps are differentiated."""
    if spec.against is None or not spec.twice:
        return 1
    steps = spec.against.inner_steps()
    return 1 + min(steps, spec.inner_steps or steps)


def _victim(context: Context, spec: CraftSpec, rows: Rows) -> Victim:
    frozen = context.classifier
    if spec.against is None or spec.draws is None:
        return Victim(
            lambda pixels, step: frozen.logits(pixels, rows.within("eot").at(step)),
            frozen.classes,
            part=lambda places: _victim(context, spec, rows[places]),
        )
    return defended(
        spec.against,
        context,
        rows,
        draws=spec.draws,
        smoothing=spec.smoothing,
        rule=spec.rule,
        inner_steps=spec.inner_steps,
        relu_width=spec.relu_width,
        window=spec.window,
    )


def check_crafted(crafted: Crafted, images: Images, spec: CraftSpec) -> None:
    """Check that `spec` may have made the examples from the images, including their targets.

    See `check_examples`; targets are compared exactly.

    Args:
        crafted: The examples.
        images: The images given to `craft`.
        spec: What was to be made.

    Raises:
        BadTensor: If not.
    """
    _require_shard(images, spec)
    check_examples(crafted, images, spec.attack.ball())
    require((crafted.targets != crafted.labels).all(), "crafted targets: some are the true label")
    require(
        torch.equal(crafted.targets, _targets(images, spec)),
        "crafted targets: not those that the attack draws under its seed",
    )


def check_examples(crafted: Crafted, images: Images, ball: Ball) -> None:
    """Check that the examples are of these images, each in its ball; else raise BadTensor.

    Ids and labels are compared exactly, distances up to float32 rounding. The range of the pixels
    is checked by `Crafted`.
    """
    require(torch.equal(crafted.ids, images.ids), "crafted ids: not those of the shard")
    require(torch.equal(crafted.labels, images.labels), "crafted labels: not the data set's")
    require(
        crafted.pixels.shape == images.pixels.shape,
        f"crafted pixels: expected {tuple(images.pixels.shape)}, got {tuple(crafted.pixels.shape)}",
    )
    inside = ball.contains(crafted.pixels, as_float(images.pixels), tolerance=1e-6)
    require(
        inside.all(),
        f"crafted pixels: {int((~inside).sum())} of {len(inside)} images are farther than "
        f"{ball.radius * 255:g}/255 ({ball.norm}) from their originals",
    )


def _require_shard(images: Images, spec: CraftSpec) -> None:
    ids = images.ids.cpu()
    start, stop = spec.shard.start, spec.shard.stop
    if spec.against is None:
        require(
            torch.equal(ids, torch.arange(start, stop)),
            f"images: expected those of places {start} to {stop - 1} in order",
        )
    inside = (ids >= start) & (ids < stop)
    require(
        inside.all() & (ids.diff() > 0).all(),
        f"images: expected some of places {start} to {stop - 1} in order",
    )


def _rows(images: Images, spec: CraftSpec, device: torch.device | str) -> Rows:
    ids = images.ids.to(device)
    return Rows(spec.seed, images=ids, draws=torch.zeros_like(ids)).within("attack")


def _targets(images: Images, spec: CraftSpec) -> Tensor:
    rows = _rows(images, spec, "cpu")
    return spec.attack.targets(images.labels.cpu(), rows, images.classes)
