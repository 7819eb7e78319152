"""The contract of a defense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.contract.conditions import (
    CHANGES,
    NOTHING_KEPT,
    BrokenContract,
    NotRepeatable,
    check_generators,
    checked,
    first_call,
    generators,
    repeatable,
    require,
    same,
)
from tasks.contract.samples import (
    CLASSES,
    COUNT,
    POOL,
    anew,
    elsewhere,
    problem,
    sample_images,
    sample_network,
    sample_rows,
)
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense

CROWD = 64
"""Rows of a batch in which the images are repeated, to find what happens only in large batches."""
MEMBERS = 3
"""Members of the ensemble with which a defense about members is tested."""


def check_defense(spec: Defense, *, channels: int = 1, side: int = 8) -> None:
    """Check a defense: its `transform`, its gradient and its `combine`.

    The result must have the right shape, type and range, leave its input unchanged, depend for each
    image on that image and its draws alone, be the same in predictions as in attacks, with
    gradients and without, and draw random numbers only from `rows`; a defense that declares itself
    deterministic must not draw. The network and the pool must stay as they are. A finite gradient
    that is not zero for every image must reach the pixels.

    Args:
        spec: The defense; it is resolved for an epsilon of 8/255 and ten classes.
        channels: Channels of the test images.
        side: Side of the test images, in pixels.

    Raises:
        BrokenContract: If any of this does not hold.
    """
    spec = spec.resolved(problem(side))
    images, rows = sample_images(channels, side), sample_rows()
    module = sample_network(channels, side)
    if spec.asks_members():
        module = EnsembleModule([sample_network(channels, side, seed) for seed in range(MEMBERS)])
    frozen = Frozen(module, classes=CLASSES)
    context = Context(frozen, sample_images(channels, side, POOL))
    pixels = as_float(images.pixels)
    leaf = pixels.clone().requires_grad_()
    name, views = f"defense {spec.kind}", spec.views(CLASSES)
    found = _first_result(name, spec, leaf, rows, context)
    made = found.detach().reshape(COUNT, views, -1)
    asked = partial(_transformed, spec, context, views)
    trial = _Trial(name, asked, pixels, rows, made, generators())
    trial.check_each_alone()
    trial.check_elsewhere(spec.kind)
    trial.check_crowd()
    if spec.deterministic(CLASSES):
        require(
            same(asked(pixels, sample_rows(draw=1)), asked(pixels, rows)),
            f"{name}: says that it is deterministic, and draws differ",
        )
    _check_gradient(name, leaf, found)
    if spec.combines():
        asked_for = frozen.member_logits if spec.asks_members() else frozen.logits
        _check_combine(name, spec, asked_for(found).reshape(COUNT, -1, CLASSES))
    again = partial(_transformed, anew(spec), context, views)
    again(1 - pixels, sample_rows(draw=1))
    _check_unchanged(name, context)
    repeatable(
        same(again(pixels, rows), made),
        f"{name}: gives something else after other images; {NOTHING_KEPT}",
    )


def _first_result(name: str, spec: Defense, leaf: Tensor, rows: Rows, context: Context) -> Tensor:
    """Return what a defense makes of `leaf`, which requires a gradient, after checking it alone."""
    before, state = leaf.detach().clone(), generators()
    try:
        with first_call():
            spec.transform(leaf, rows, context)
        result: object = spec.transform(leaf, rows, context)
    except RuntimeError as error:
        if "a leaf Variable that requires grad" not in str(error):
            raise
        raise BrokenContract(
            f"{name}: changes the pixels that it is given; write `pixels = pixels + 1` instead of "
            "`pixels += 1`, and clamp instead of clamp_"
        ) from error
    check_generators(name, state)
    _check_unchanged(name, context)
    views = spec.views(CLASSES)
    found = checked(name, result, before, copies=views, anywhere=spec.leaves_range())
    require(torch.equal(leaf, before), f"{name}: changes the pixels that it is given")
    require(
        found.requires_grad,
        f"{name}: no gradient comes back; return tasks.straight.through(pixels, result)",
    )
    return found


def _transformed(spec: Defense, context: Context, views: int, pixels: Tensor, rows: Rows) -> Tensor:
    """Return what a defense makes of some images, float32 [N, views, C x H x W]."""
    return spec.transform(pixels, rows, context).detach().reshape(len(pixels), views, -1)


@dataclass(frozen=True)
class _Trial:
    """The result of a defense for the images, to compare with what it gives for other batches.

    Attributes:
        asked: The defense's result for pixels and rows, float32 [N, views, C x H x W].
        made: Its result for all of `pixels` and `rows`.
        state: State of the global random generators before the comparisons.
    """

    name: str
    asked: Callable[[Tensor, Rows], Tensor]
    pixels: Tensor
    rows: Rows
    made: Tensor
    state: Mapping[str, bytes]

    def check_each_alone(self) -> None:
        """Check that an image's result depends on that image and its draw, and not on its batch."""
        asked, pixels, rows, made = self.asked, self.pixels, self.rows, self.made
        repeatable(
            same(asked(pixels, rows), made),
            f"{self.name}: the same images and draws give something else a second time; draw from "
            "`rows`, and keep nothing between calls",
        )
        for place in range(COUNT):
            one = slice(place, place + 1)
            if same(asked(pixels[one], rows[one]), made[one]):
                continue
            others = torch.arange(COUNT) != place
            drawn = rows.images.clone()
            drawn[others] += COUNT
            # black and white ones too: they are the most extreme, if only an extreme matters
            changed = (1 - pixels, torch.zeros_like(pixels), torch.ones_like(pixels))
            beside = [torch.where(others[:, None, None, None], each, pixels) for each in changed]
            why = "its result follows from its place among them; draw from `rows`"
            if not all(same(asked(images, rows)[one], made[one]) for images in beside):
                why = "its result follows from the other images; compute it from that image"
            elif not same(asked(pixels, replace(rows, images=drawn))[one], made[one]):
                why = "it has the draws of another image; draw once for each of `rows`"
            raise BrokenContract(
                f"{self.name}: an image alone gives something else than in a batch: {why}"
            )

    def check_elsewhere(self, kind: str) -> None:
        """Check that the result is the same in predictions and attacks, at any step."""
        repeatable(
            all(
                same(self.asked(self.pixels, rows), self.made)
                for rows in elsewhere(self.rows, kind)
            ),
            f"{self.name}: the same images and random numbers give something else in an attack "
            "than in a prediction; read no private member of `rows`",
        )

    def check_crowd(self) -> None:
        """Check that a large batch gives the same results, with gradients and without."""
        crowd = torch.arange(CROWD) % COUNT
        pixels, rows = self.pixels[crowd], self.rows[crowd]
        many = self.asked(pixels, rows)
        check_generators(self.name, self.state)
        require(
            same(many, self.made[crowd]),
            f"{self.name}: an image in a batch of {CROWD} gives something else than in one of "
            f"{COUNT}; compute it from that image and its `rows`",
        )
        with torch.no_grad():
            unwatched = self.asked(pixels, rows)
        require(
            same(unwatched, many),
            f"{self.name}: gives something else without gradients, as in predictions, than with "
            "them, as in an attack",
        )


def _check_unchanged(name: str, context: Context) -> None:
    """Check that a defense has changed neither the network nor the pool that it is given."""
    try:
        context.classifier.check()
    except NotFrozen as error:
        raise NotRepeatable(f"{name}: {CHANGES} ({error})") from error
    assert context.pool is not None
    pixels = context.pool.pixels
    repeatable(
        torch.equal(pixels, sample_images(pixels.shape[1], pixels.shape[2], POOL).pixels),
        f"{name}: changes the pool of images that it is given",
    )


def _check_gradient(name: str, leaf: Tensor, found: Tensor) -> None:
    """Check that the gradient is finite, and not zero for every image."""
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    (gradient,) = torch.autograd.grad((weights * found).sum(), leaf)
    require(bool(gradient.isfinite().all()), f"{name}: gives a gradient that is not finite")
    require(
        bool((gradient != 0).any()),
        f"{name}: the gradient that comes back is zero for every image; "
        "return tasks.straight.through(pixels, result)",
    )


def _check_combine(name: str, spec: Defense, logits: Tensor) -> None:
    """Check `combine` and `surrogate`: finite, image by image, and differentiable as declared.

    logits: float32 [COUNT, views, CLASSES].
    """
    surrogate = spec.gradients()[0] == "surrogate"
    for word, combine in (("combine", spec.combine), ("surrogate", spec.surrogate)):
        found: object = combine(logits)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        require(
            isinstance(found, Tensor) and found.shape == (COUNT, CLASSES),
            f"{name}: its {word} gives {shape}, not {(COUNT, CLASSES)}",
        )
        assert isinstance(found, Tensor)
        require(
            bool(found.isfinite().all()), f"{name}: its {word} gives values that are not finite"
        )
        alone = torch.cat([combine(logits[place : place + 1]) for place in range(COUNT)])
        require(
            torch.allclose(alone, found, atol=1e-5),
            f"{name}: its {word} gives an image alone something else than in a batch",
        )
        if surrogate == (word == "surrogate"):
            require(
                found.requires_grad,
                f"{name}: no gradient comes back through its {word}"
                + ("" if surrogate else "; declare `surrogate` in gradients()"),
            )
    mask = spec.abstains(spec.combine(logits).softmax(dim=1), spec.draws)
    require(
        mask is None or (mask.dtype == torch.bool and mask.shape == (COUNT,)),
        f"{name}: its abstains gives no bool ({COUNT},)",
    )
