"""Selects, for each image, the candidate on which a defended model fails most often.

Candidates are tried in turn. An image on which the model surely fails under one of them is done:
later candidates are not tried on it here and, in a cascade, not made for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.arrays import Crafted, Images, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.evaluation.defend import precise, predict, single_draw_logits
from tasks.evaluation.draws import attacker_draws, draw_count, whole_predictions
from tasks.evaluation.specs import SelectSpec
from tasks.progress import Progress, Tell, silent


@dataclass(frozen=True)
class Chosen:
    """The selection from a sequence of candidates."""

    crafted: Crafted
    """The selected examples."""
    choice: Tensor
    """int64 [N], the position of the selected candidate."""
    failures: Tensor
    """float32 [N, candidates], the share of the attacker's draws on which a candidate fooled the
    defended model; NaN if it was not tried on the image."""
    true: Tensor
    """float32 [N], the mean probability of the true class under the selected candidate."""
    standing: Tensor
    """bool [N], whether the image is not done."""

    def __post_init__(self) -> None:
        count = len(self.crafted)
        columns = (self.choice, self.failures, self.true, self.standing)
        require(
            all(len(column) == count for column in columns),
            f"chosen: expected {count} rows, got {[len(column) for column in columns]}",
        )

    @property
    def broken(self) -> Tensor:
        """int64 [candidates], how many images each broke."""
        return self.choice[~self.standing].bincount(minlength=self.failures.shape[1])


@dataclass(frozen=True)
class _Answers:
    """What the model answers about some examples, a row each; see `Chosen`.

    margin: the least margin on any draw, from the true class to the predicted one.
    """

    failed: Tensor
    true: Tensor
    margin: Tensor


def select(
    candidates: Mapping[str, Crafted],
    images: Images,
    context: Context,
    spec: SelectSpec,
    *,
    batch_size: int,
    before: Chosen | None = None,
    tell: Tell = silent,
) -> Chosen:
    """Select, for each image, the candidate with the most failed draws.

    Of equals, it is the one with the lowest probability of the true class. All candidates are tried
    on the same draws: `spec.draws` single ones and, for a randomised defense, `spec.predictions`
    whole predictions.

    Args:
        candidates: Examples of any of the shard's images, in the order in which to try them on the
            images that no earlier one broke.
        images: The shard's images, in order.
        context: The classifier.
        spec: How to select.
        batch_size: Images, or draws of images, per forward pass.
        before: Selection from earlier candidates.
        tell: Called with the progress.

    Returns:
        Tensors on the CPU.

    Raises:
        BadTensor: If a candidate is of other images, or no candidate has all of them.
    """
    require(len(candidates) > 0, "select: there are no candidates")
    for name, crafted in candidates.items():
        known = torch.isin(crafted.ids, images.ids).all()
        require(known, f"select: candidate {name} is not of the shard's images")
    chosen = before or _nothing(images, next(iter(candidates.values())))
    total = float(sum(map(len, candidates.values())))
    done = 0
    for name, crafted in candidates.items():
        chosen = _with(chosen, crafted, context, spec, batch_size)
        done += len(crafted)
        tell(Progress(done, total, f"candidate {name}"))
    require((chosen.choice >= 0).all(), "select: no candidate has all of the shard's images")
    return chosen


def _nothing(images: Images, like: Crafted) -> Chosen:
    """Return the selection before the first candidate."""
    count = len(images)
    none = torch.full_like(images.labels, -1)
    pixels = like.pixels.new_zeros(count, *like.pixels.shape[1:])
    return Chosen(
        crafted=Crafted(pixels, images.labels, images.ids, none),
        choice=none,
        failures=torch.empty(count, 0),
        true=torch.ones(count),
        standing=torch.ones(count, dtype=torch.bool),
    )


def _with(
    chosen: Chosen, crafted: Crafted, context: Context, spec: SelectSpec, batch_size: int
) -> Chosen:
    """Add a candidate, tried on those of its images that no earlier one broke."""
    place = chosen.failures.shape[1]
    rows = torch.searchsorted(chosen.crafted.ids, crafted.ids)
    asked = chosen.standing[rows]
    rows = rows[asked]
    ids, labels, pixels = crafted.ids[asked], crafted.labels[asked], crafted.pixels[asked]
    found = _asked(pixels, labels, ids, context, spec, batch_size)

    column = torch.full((len(chosen.crafted), 1), torch.nan)
    column[rows, 0] = found.failed
    failures = torch.cat((chosen.failures, column), dim=1)
    sure = torch.zeros_like(rows, dtype=torch.bool)
    if spec.margin is not None:
        sure = (found.failed == 1) & (found.margin >= spec.margin)
    first = chosen.choice[rows] < 0
    before = failures[rows].gather(1, chosen.choice[rows].clamp_min(0)[:, None])[:, 0]
    more = found.failed > before
    lower = (found.failed == before) & (found.true < chosen.true[rows])
    better = rows[first | more | lower | sure]
    taken = (first | more | lower | sure).nonzero()[:, 0]

    choice, true, standing = chosen.choice.clone(), chosen.true.clone(), chosen.standing.clone()
    kept = chosen.crafted.pixels.clone()
    choice[better] = place
    true[better] = found.true[taken]
    kept[better] = pixels[taken]
    standing[rows[sure]] = False
    examples = Crafted(kept, chosen.crafted.labels, chosen.crafted.ids, chosen.crafted.targets)
    return Chosen(examples, choice, failures, true, standing)


def _asked(
    pixels: Tensor, labels: Tensor, ids: Tensor, context: Context, spec: SelectSpec, batch_size: int
) -> _Answers:
    """Return what the defended model answers about some examples."""
    frozen = context.classifier
    draws = attacker_draws(spec.against, frozen.classes, spec.draws, randomised=frozen.randomised)
    whole = whole_predictions(
        spec.against, frozen.classes, spec.predictions, randomised=frozen.randomised
    )
    size = max(1, batch_size // draws)
    failed, true, margin = [torch.empty(0)], [torch.empty(0)], [torch.empty(0)]
    for first in range(0, len(ids), size):
        part = slice(first, first + size)
        own = ids[part].to(frozen.device)
        shown = pixels[part].to(frozen.device)
        rows = Rows(spec.seed, own, torch.zeros_like(own))
        with torch.no_grad():
            logits = single_draw_logits(
                spec.against, context, shown, rows.within("select"), draws=draws
            )
            single = precise(spec.against, logits).softmax(dim=2)
            predicted = [
                predict(
                    spec.against,
                    context,
                    shown,
                    Rows(spec.seed, own, torch.full_like(own, number)).within("select-whole"),
                    batch_size,
                )
                for number in range(whole)
            ]
        answers = torch.cat((single, *(each[:, None] for each in predicted)), dim=1)
        target = labels[part].to(frozen.device)[:, None]
        chance = answers.gather(2, target[:, :, None].expand(-1, answers.shape[1], 1))[:, :, 0]
        wrong = answers.argmax(dim=2) != target
        for place, whole_answer in enumerate(predicted, start=draws):
            abstained = spec.against.abstains(whole_answer, draw_count(spec.against))
            if abstained is not None:
                wrong[:, place] |= abstained
        failed.append(wrong.float().mean(dim=1).cpu())
        true.append(chance.mean(dim=1).float().cpu())
        margin.append((answers.amax(dim=2) - chance).amin(dim=1).float().cpu())
    return _Answers(torch.cat(failed), torch.cat(true), torch.cat(margin))
