"""What a cell's outcomes come to. Every number is a view of per-image, per-redraw answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tasks.data.arrays import Outcomes, require
from tasks.evaluation.statistics import wilson_interval


class Score(BaseModel):
    """The facts of one cell; rates in percent.

    accuracy: mean over images of the share of right redraws; interval: its 95 % Wilson
    interval, from the number of images; spread: standard deviation over redraws of the
    accuracy of one, None with a single redraw; right_in_every_redraw: share of the images;
    true_probability: mean over images and redraws of the true class's probability, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)

    images: int
    redraws: int
    accuracy: float
    interval: tuple[float, float]
    spread: float | None
    right_in_every_redraw: float
    true_probability: float


def joined(shards: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of several shards as one. BadTensor if an image is there twice."""
    ids = torch.cat([shard.ids for shard in shards])
    require(len(set(ids.tolist())) == len(ids), "outcomes: an image is in more than one shard")
    return Outcomes(
        torch.cat([shard.probabilities for shard in shards]),
        torch.cat([shard.labels for shard in shards]),
        ids,
        _joined_masks(shards),
    )


def _joined_masks(shards: Sequence[Outcomes]) -> Tensor | None:
    masks = [shard.abstained for shard in shards if shard.abstained is not None]
    require(len(masks) in {0, len(shards)}, "outcomes: some shards abstain, and some never do")
    return torch.cat(masks) if masks else None


def share_right(outcomes: Outcomes) -> Tensor:
    """float64 [N]: each image's share of right redraws, the unit of every statistic."""
    return outcomes.correct.to(torch.float64).mean(dim=1)


def rates(correct: Tensor) -> dict[str, Any]:
    """What the answers alone say of a score. correct: bool [N, R], one or more of both."""
    images, redraws = correct.shape
    each = correct.to(torch.float64)
    accuracy = each.mean(dim=1).mean().item()
    low, high = wilson_interval(accuracy * images, images)
    return {
        "images": images,
        "redraws": redraws,
        "accuracy": 100 * accuracy,
        "interval": (100 * low, 100 * high),
        "spread": 100 * each.mean(dim=0).std().item() if redraws > 1 else None,
        "right_in_every_redraw": 100 * correct.all(dim=1).to(torch.float64).mean().item(),
    }


def score(outcomes: Outcomes) -> Score:
    """Score the outcomes of all shards of a cell (see `joined`). BadTensor without images."""
    images, redraws, classes = outcomes.probabilities.shape
    require(images > 0 and redraws > 0, "outcomes: there is nothing to score")
    true = outcomes.labels[:, None, None].expand(images, redraws, 1)
    require((true < classes).all(), f"outcomes: a label is not below {classes}")
    return Score(
        **rates(outcomes.correct),
        true_probability=outcomes.probabilities.gather(2, true).to(torch.float64).mean().item(),
    )
