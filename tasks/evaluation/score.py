"""Scores of a cell's outcomes; every number is computed from the answers per image and redraw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tasks.data.arrays import Outcomes, require
from tasks.evaluation.statistics import wilson_interval


class Score(BaseModel):
    """The facts of one cell; rates are in percent."""

    model_config = ConfigDict(frozen=True)

    images: int
    redraws: int
    accuracy: float
    """Mean over images of the share of correct redraws."""
    interval: tuple[float, float]
    """95 % Wilson interval of the accuracy, with the number of images as sample size."""
    spread: float | None
    """Standard deviation over redraws of the accuracy in one; None for a single redraw."""
    right_in_every_redraw: float
    """Share of the images that are correct in all redraws."""
    true_probability: float
    """Mean probability of the true class over images and redraws, in [0, 1]."""


def joined(shards: Sequence[Outcomes]) -> Outcomes:
    """Join the outcomes of several shards; BadTensor if an image occurs twice."""
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
    """Return each image's share of correct redraws, float64 [N], the unit of all statistics."""
    return outcomes.correct.to(torch.float64).mean(dim=1)


def rates(correct: Tensor) -> dict[str, Any]:
    """Return the part of a score that the answers alone determine.

    correct: bool [N, R], with N and R at least 1.
    """
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
    """Score the outcomes of all shards of a cell (see `joined`); BadTensor without images."""
    images, redraws, classes = outcomes.probabilities.shape
    require(images > 0 and redraws > 0, "outcomes: there is nothing to score")
    true = outcomes.labels[:, None, None].expand(images, redraws, 1)
    require((true < classes).all(), f"outcomes: a label is not below {classes}")
    return Score(
        **rates(outcomes.correct),
        true_probability=outcomes.probabilities.gather(2, true).to(torch.float64).mean().item(),
    )
