"""Choose, image by image, the candidate that a defended model fails on most often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.arrays import Crafted, Images, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.evaluation.defend import single_draw_logits
from tasks.evaluation.draws import attacker_draws
from tasks.evaluation.specs import SelectSpec
from tasks.progress import Progress, Tell, silent


@dataclass(frozen=True)
class Chosen:
    """What was chosen of some candidates, in their order.

    crafted: the examples; choice: int64 [N], a candidate's place; failures: float32
    [N, candidates], the share of the attacker's draws on which a candidate fooled the defended
    model; NaN where a candidate has no example of an image.
    """

    crafted: Crafted
    choice: Tensor
    failures: Tensor


def select(
    candidates: Mapping[str, Crafted],
    images: Images,
    context: Context,
    spec: SelectSpec,
    *,
    batch_size: int,
    tell: Tell = silent,
) -> Chosen:
    """The candidate with the most failed draws, of equals that of the lowest true probability.

    candidates: examples of the shard's images, or of the first of them; images: the shard's, in
    order. All candidates are asked the same draws. Returns tensors on the CPU; BadTensor where a
    candidate is of other images or no candidate has all of them.
    """
    require(len(candidates) > 0, "select: there are no candidates")
    for name, crafted in candidates.items():
        same = torch.equal(crafted.ids, images.ids[: len(crafted)])
        require(same, f"select: candidate {name} is not of the shard's first images")
    count = max(map(len, candidates.values()))
    require(count == len(images), "select: no candidate has all of the shard's images")
    failures = torch.full((len(images), len(candidates)), torch.nan)
    keys = torch.full((len(images), len(candidates)), -torch.inf, dtype=torch.float64)
    total = float(sum(map(len, candidates.values())))
    done = 0
    for place, (name, crafted) in enumerate(candidates.items()):
        wrong, true = _asked(crafted, context, spec, batch_size)
        done += len(crafted)
        tell(Progress(done, total, f"candidate {name}"))
        failures[: len(crafted), place] = wrong
        # a failed draw weighs more than any probability
        keys[: len(crafted), place] = wrong.double() * 2 * spec.draws - true.double()
    choice = keys.argmax(dim=1)
    padded = [
        torch.cat((crafted.pixels, crafted.pixels.new_zeros(len(images) - len(crafted), *shape)))
        for crafted in candidates.values()
        for shape in [crafted.pixels.shape[1:]]
    ]
    pixels = torch.stack(padded)[choice, torch.arange(len(images))]
    none = torch.full_like(images.labels, -1)
    return Chosen(Crafted(pixels, images.labels, images.ids, none), choice, failures)


def _asked(
    crafted: Crafted, context: Context, spec: SelectSpec, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Of each example the share of wrong draws, and the mean probability of the true class."""
    frozen = context.classifier
    draws = attacker_draws(spec.against, frozen.classes, spec.draws, randomised=frozen.randomised)
    size = max(1, batch_size // draws)
    wrong, true = [], []
    for first in range(0, len(crafted), size):
        part = slice(first, first + size)
        ids = crafted.ids[part].to(frozen.device)
        labels = crafted.labels[part].to(frozen.device)[:, None]
        rows = Rows(spec.seed, ids, torch.zeros_like(ids)).within("select")
        with torch.no_grad():
            pixels = crafted.pixels[part].to(frozen.device)
            logits = single_draw_logits(spec.against, context, pixels, rows, draws=draws)
        wrong.append((logits.argmax(dim=2) != labels).float().mean(dim=1).cpu())
        chance = logits.softmax(dim=2).gather(2, labels[:, :, None].expand(-1, draws, 1))
        true.append(chance[:, :, 0].mean(dim=1).cpu())
    return torch.cat(wrong), torch.cat(true)
