"""Tests of the contract of a defense, an attack or a network, on a few small images.

They are meant for the tests of whoever writes one. Each check raises BrokenContract with one line.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import module_from_spec
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tasks.attacks.base import Attack, Victim
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.data.arrays import Images, as_float
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.networks.base import Network
from tasks.specs import Problem

CLASSES, COUNT = 10, 6
CROWD = 64
"""Rows of a batch in which the images are repeated, to find what happens only in large batches."""
MEMBERS = 3
"""Members of the ensemble with which a defense about members is tested."""
NOTHING_KEPT = "derive everything from the images and `rows`, and keep nothing between calls"
"""What to do about code that keeps state between calls."""
CHANGES = "changes the network's weights or modules, which have to stay as they are"
"""What is said of code that changes the network, before what it changed."""
Part = TypeVar("Part", Defense, Attack)


class BrokenContract(AssertionError):
    """The contract is not kept; the message says where."""


class NotRepeatable(BrokenContract):
    """A second run gives another result, or a global random generator is used."""


def check_defense(spec: Defense, *, channels: int = 1, side: int = 8) -> None:
    """Check a defense: its `transform`, its gradient and its `combine`.

    The result must have the right shape, type and range, leave its input unchanged, depend for each
    image on that image and its draws alone, be the same with and without gradients, and draw random
    numbers only from `rows`; a defense that declares itself deterministic must not draw. The
    network and the pool must stay as they are. A finite gradient that is not zero for every image
    must reach the pixels.

    Args:
        spec: The defense; it is resolved for an epsilon of 8/255 and ten classes.
        channels: Channels of the test images.
        side: Side of the test images, in pixels.

    Raises:
        BrokenContract: If any of this does not hold.
    """
    spec = spec.resolved(_problem(side))
    images, rows = _images(channels, side), _rows()
    module = _network(channels, side)
    if spec.asks_members():
        module = EnsembleModule([_network(channels, side, seed) for seed in range(MEMBERS)])
    frozen = Frozen(module, classes=CLASSES)
    context = Context(frozen, images)
    pixels = as_float(images.pixels)
    before = pixels.clone()
    leaf = pixels.clone().requires_grad_()
    state = generators()
    name, views = f"defense {spec.kind}", spec.views(CLASSES)
    try:
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
    found = _checked(name, result, pixels, copies=views, anywhere=spec.leaves_range())
    _require(torch.equal(pixels, before), f"{name}: changes the pixels that it is given")
    _require(
        found.requires_grad,
        f"{name}: no gradient comes back; return tasks.straight.through(pixels, result)",
    )
    asked = partial(_transformed, spec, context, views)
    _check_each_alone(name, asked, pixels, rows, found.detach().view(COUNT, views, -1))
    crowd = torch.arange(CROWD) % COUNT
    many = asked(pixels[crowd], rows[crowd])
    check_generators(name, state)
    _require(
        _same(many, found.detach().view(COUNT, views, -1)[crowd]),
        f"{name}: an image in a batch of {CROWD} gives something else than in one of {COUNT}; "
        "compute it from that image and its `rows`",
    )
    with torch.no_grad():
        unwatched = asked(pixels[crowd], rows[crowd])
    _require(
        _same(unwatched, many),
        f"{name}: gives something else without gradients, as in predictions, than with them, as "
        "in an attack",
    )
    if spec.deterministic(CLASSES):
        _require(
            _same(asked(pixels, _rows(draw=1)), asked(pixels, rows)),
            f"{name}: says that it is deterministic, and draws differ",
        )
    _check_gradient(name, leaf, found)
    if spec.combines():
        asked_for = frozen.member_logits if spec.asks_members() else frozen.logits
        _check_combine(name, spec, asked_for(found).reshape(COUNT, -1, CLASSES))
    again = partial(_transformed, _anew(spec), context, views)
    again(1 - pixels, _rows(draw=1))
    _check_unchanged(name, context)
    _repeatable(
        _same(again(pixels, rows), found.detach().view(COUNT, views, -1)),
        f"{name}: gives something else after other images; {NOTHING_KEPT}",
    )


def _transformed(spec: Defense, context: Context, views: int, pixels: Tensor, rows: Rows) -> Tensor:
    """Return what a defense makes of some images, float32 [N, views, C x H x W]."""
    return spec.transform(pixels, rows, context).detach().view(len(pixels), views, -1)


def _check_each_alone(
    name: str,
    asked: Callable[[Tensor, Rows], Tensor],
    pixels: Tensor,
    rows: Rows,
    found: Tensor,
) -> None:
    """Check that an image's result depends only on that image and its draw, and not on its batch.

    found: the results for the whole batch.
    """
    _repeatable(
        _same(asked(pixels, rows), found),
        f"{name}: the same images and draws give something else a second time; draw from `rows`, "
        "and keep nothing between calls",
    )
    for place in range(COUNT):
        one = slice(place, place + 1)
        if _same(asked(pixels[one], rows[one]), found[one]):
            continue
        others = torch.arange(COUNT) != place
        drawn = rows.images.clone()
        drawn[others] += COUNT
        # black and white ones too: they are the most extreme, if only an extreme matters
        changed = (1 - pixels, torch.zeros_like(pixels), torch.ones_like(pixels))
        beside = [torch.where(others[:, None, None, None], each, pixels) for each in changed]
        why = "its result follows from its place among them; draw from `rows`"
        if not all(_same(asked(images, rows)[one], found[one]) for images in beside):
            why = "its result follows from the other images; compute it from that image"
        elif not _same(asked(pixels, replace(rows, images=drawn))[one], found[one]):
            why = "it has the draws of another image; draw once for each of `rows`"
        raise BrokenContract(f"{name}: an image alone gives something else than in a batch: {why}")


def _check_unchanged(name: str, context: Context) -> None:
    """Check that a defense has changed neither the network nor the pool that it is given."""
    try:
        context.classifier.check()
    except NotFrozen as error:
        raise NotRepeatable(f"{name}: {CHANGES} ({error})") from error
    pool = context.pool
    _repeatable(
        pool is None or torch.equal(pool.pixels, _images(*pool.pixels.shape[1:3]).pixels),
        f"{name}: changes the pool of images that it is given",
    )


def _anew(spec: Part) -> Part:
    """Return another instance with the same parameters, on which nothing has been called.

    A user's module is executed once more for it, where that is possible, since it may have
    variables that the calls so far have changed.
    """
    cls = type(spec)
    if not cls.__module__.startswith("tasks.") and cls.__name__ == cls.__qualname__:
        with suppress(Exception):
            known = sys.modules[cls.__module__].__spec__
            assert known is not None
            assert known.loader is not None
            module = module_from_spec(known)
            known.loader.exec_module(module)
            fresh: Part = getattr(module, cls.__name__)(**dict(spec))
            return fresh
    return cls(**dict(spec))


def _check_gradient(name: str, leaf: Tensor, found: Tensor) -> None:
    """Check that the gradient is finite, and not zero for every image."""
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    (gradient,) = torch.autograd.grad((weights * found).sum(), leaf)
    _require(bool(gradient.isfinite().all()), f"{name}: gives a gradient that is not finite")
    _require(
        bool((gradient != 0).any()),
        f"{name}: the gradient that comes back is zero for every image; "
        "return tasks.straight.through(pixels, result)",
    )


def generators() -> dict[str, bytes]:
    """Return the state of each global random generator, by the module it belongs to."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return {
        "torch": b"".join(state.numpy().tobytes() for state in states),
        "numpy": repr(np.random.get_state()).encode(),  # noqa: NPY002  whether it was used
        "random": repr(random.getstate()).encode(),
    }


def check_generators(name: str, before: Mapping[str, bytes]) -> None:
    """Check that no global random generator has been used since `before`.

    Args:
        name: The part that ran meanwhile, for the message.
        before: Those of the states of `generators` to compare.

    Raises:
        NotRepeatable: If one has been used.
    """
    now = generators()
    drawn = [module for module, state in before.items() if now[module] != state]
    _repeatable(
        not drawn,
        f"{name}: draws random numbers of {' and '.join(drawn)}, which are no image's own; "
        'draw from `rows`, such as rows.uniform("noise", 64)',
    )


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, atol=1e-6)


def _check_combine(name: str, spec: Defense, logits: Tensor) -> None:
    """Check `combine` and `surrogate`: finite, image by image, and differentiable as declared.

    logits: float32 [COUNT, views, CLASSES].
    """
    surrogate = spec.gradients()[0] == "surrogate"
    for word, combine in (("combine", spec.combine), ("surrogate", spec.surrogate)):
        found: object = combine(logits)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        _require(
            isinstance(found, Tensor) and found.shape == (COUNT, CLASSES),
            f"{name}: its {word} gives {shape}, not {(COUNT, CLASSES)}",
        )
        assert isinstance(found, Tensor)
        _require(
            bool(found.isfinite().all()), f"{name}: its {word} gives values that are not finite"
        )
        alone = torch.cat([combine(logits[place : place + 1]) for place in range(COUNT)])
        _require(
            torch.allclose(alone, found, atol=1e-5),
            f"{name}: its {word} gives an image alone something else than in a batch",
        )
        if surrogate == (word == "surrogate"):
            _require(
                found.requires_grad,
                f"{name}: no gradient comes back through its {word}"
                + ("" if surrogate else "; declare `surrogate` in gradients()"),
            )
    mask = spec.abstains(spec.combine(logits).softmax(dim=1), spec.draws)
    _require(
        mask is None or (mask.dtype == torch.bool and mask.shape == (COUNT,)),
        f"{name}: its abstains gives no bool ({COUNT},)",
    )


def check_attack(spec: Attack, *, channels: int = 1, side: int = 8) -> None:
    """Check an attack: its `perturb`.

    The examples must have the right shape, type and range, lie in the attack's ball, depend for
    each image on that image alone, and leave the input unchanged. Random numbers must come from
    `rows`, except in attacks of other libraries.

    Args:
        spec: The attack; it is resolved for an epsilon of 8/255 and ten classes.
        channels: Channels of the test images.
        side: Side of the test images, in pixels.

    Raises:
        BrokenContract: If any of this does not hold.
    """
    spec = spec.resolved(_problem(side))
    images, rows = _images(channels, side), _rows()
    network = _network(channels, side)
    victim = Victim(lambda pixels, _: network(pixels), CLASSES)
    pixels = as_float(images.pixels)
    before = pixels.clone()
    state = generators()
    result: object = spec.perturb(victim, pixels, images.labels, rows)
    name = f"attack {spec.kind}"
    if not spec.library:
        check_generators(name, state)
    found = _checked(name, result, pixels)
    _require(torch.equal(pixels, before), f"{name}: changes the pixels that it is given")
    ball = spec.ball()
    _require(
        bool(ball.contains(found, pixels).all()),
        f"{name}: goes farther than {ball.radius * 255:g}/255 ({ball.norm}); use ball().project",
    )
    _repeatable(
        torch.allclose(spec.perturb(victim, pixels, images.labels, rows), found, atol=1e-5),
        f"{name}: the same images give something else a second time; {NOTHING_KEPT}",
    )
    for place in range(COUNT):
        one = slice(place, place + 1)
        alone = spec.perturb(victim, pixels[one], images.labels[one], rows[one])
        _require(
            torch.allclose(alone, found[one], atol=1e-5),
            f"{name}: an image alone gives something else than in a batch; draw from `rows`",
        )
    other = _anew(spec)
    other.perturb(victim, 1 - pixels, images.labels, _rows(draw=1))
    _repeatable(
        torch.allclose(other.perturb(victim, pixels, images.labels, rows), found, atol=1e-5),
        f"{name}: gives something else after other images; {NOTHING_KEPT}",
    )


def check_network(spec: Network, *, channels: int = 1, side: int = 8) -> None:
    """Check a network: finite logits of the right shape for any batch size, and a finite gradient.

    Args:
        spec: The network; it is built for ten classes.
        channels: Channels of the test images.
        side: Side of the test images, in pixels.

    Raises:
        BrokenContract: If any of this does not hold.
    """
    module = spec.build(channels, side, CLASSES).eval()
    name = f"network {spec.kind}"
    for count in (1, COUNT):
        leaf = as_float(_images(channels, side).pixels[:count]).requires_grad_()
        logits = module(leaf)
        shape = tuple(logits.shape)
        _require(shape == (count, CLASSES), f"{name}: gives {shape}, not {(count, CLASSES)}")
        _require(bool(logits.isfinite().all()), f"{name}: gives logits that are not finite")
        (gradient,) = torch.autograd.grad(logits.sum(), leaf)
        _require(bool(gradient.isfinite().all()), f"{name}: gives a gradient that is not finite")


def _checked(
    name: str, result: object, pixels: Tensor, *, copies: int = 1, anywhere: bool = False
) -> Tensor:
    if not isinstance(result, Tensor):
        raise BrokenContract(f"{name}: returns {type(result).__name__}, expected a tensor")
    shape, dtype = tuple(result.shape), result.dtype
    views = f" ({copies} views of each image)" if copies > 1 else ""
    expected = (copies * len(pixels), *pixels.shape[1:])
    _require(shape == expected, f"{name}: returns shape {shape}, expected shape {expected}{views}")
    _require(dtype == torch.float32, f"{name}: gives {dtype}, not torch.float32")
    low, high = result.detach().aminmax()
    _require(
        bool(result.isfinite().all()) and (anywhere or (low.item() >= 0 and high.item() <= 1)),
        f"{name}: gives values from {low.item():g} to {high.item():g}, not in [0, 1]",
    )
    return result


def _require(condition: bool, line: str) -> None:
    if not condition:
        raise BrokenContract(line)


def _repeatable(condition: bool, line: str) -> None:
    if not condition:
        raise NotRepeatable(line)


def _problem(side: int) -> Problem:
    return Problem(epsilon=8.0, classes=CLASSES, side=side, pool=COUNT)


def _images(channels: int, side: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, channels, side, side)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(COUNT) % CLASSES, torch.arange(COUNT), CLASSES)


def _rows(draw: int = 0) -> Rows:
    places = torch.arange(COUNT)
    return Rows(0, images=places, draws=torch.full_like(places, draw))


def _network(channels: int, side: int, seed: int = 1) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, CLASSES))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return network
