"""The contract of an attack."""

from __future__ import annotations

import torch

from tasks.attacks.base import Attack, Victim
from tasks.contract.conditions import (
    NOTHING_KEPT,
    check_generators,
    checked,
    first_call,
    generators,
    repeatable,
    require,
)
from tasks.contract.samples import (
    CLASSES,
    COUNT,
    anew,
    problem,
    sample_images,
    sample_network,
    sample_rows,
)
from tasks.data.arrays import as_float


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
    spec = spec.resolved(problem(side))
    images, rows = sample_images(channels, side), sample_rows()
    network = sample_network(channels, side)
    victim = Victim(lambda pixels, _: network(pixels), CLASSES)
    pixels = as_float(images.pixels)
    before = pixels.clone()
    with first_call():
        spec.perturb(victim, pixels, images.labels, rows)
    state = generators()
    result: object = spec.perturb(victim, pixels, images.labels, rows)
    name = f"attack {spec.kind}"
    if not spec.library:
        check_generators(name, state)
    found = checked(name, result, pixels)
    require(torch.equal(pixels, before), f"{name}: changes the pixels that it is given")
    ball = spec.ball()
    require(
        bool(ball.contains(found, pixels).all()),
        f"{name}: goes farther than {ball.radius * 255:g}/255 ({ball.norm}); use ball().project",
    )
    repeatable(
        torch.allclose(spec.perturb(victim, pixels, images.labels, rows), found, atol=1e-5),
        f"{name}: the same images give something else a second time; {NOTHING_KEPT}",
    )
    for place in range(COUNT):
        one = slice(place, place + 1)
        alone = spec.perturb(victim, pixels[one], images.labels[one], rows[one])
        require(
            torch.allclose(alone, found[one], atol=1e-5),
            f"{name}: an image alone gives something else than in a batch; draw from `rows`",
        )
    other = anew(spec)
    other.perturb(victim, 1 - pixels, images.labels, sample_rows(draw=1))
    repeatable(
        torch.allclose(other.perturb(victim, pixels, images.labels, rows), found, atol=1e-5),
        f"{name}: gives something else after other images; {NOTHING_KEPT}",
    )
