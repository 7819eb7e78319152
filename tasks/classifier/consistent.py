"""Whether a network's answer to an image depends on that image alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.classifier.prepared import relative
from tasks.classifier.problems import BadNetwork
from tasks.specs import Precision

TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 3e-2}
"""Largest difference between answers alone and in a batch, relative to an image's largest logit."""
ALONE = 4
"""Images that are asked alone, from the beginning and the end of the batch."""


def repeats_exactly(device: torch.device, *, compiled: bool = False) -> bool:
    """Return whether equal batches have to get answers that are equal bit for bit.

    Kernels of a GPU may sum in any order unless torch's deterministic algorithms are in use, and a
    compiled network may be compiled again for batches of another size.
    """
    fixed = device.type != "cuda" or torch.are_deterministic_algorithms_enabled()
    return fixed and not compiled


def check_consistent(
    logits: Callable[[Tensor], Tensor],
    probe: Tensor,
    precision: Precision,
    *,
    randomised: bool = False,
) -> None:
    """Check that equal batches get equal answers, and an image the same alone as in a batch.

    Equal batches must be answered equally bit for bit, except on a GPU with non-deterministic
    algorithms, where rounding may differ.

    Args:
        logits: float32 [N, C, H, W] to [N, classes].
        probe: Images to ask about.
        precision: Precision of the logits, which sets the tolerance.
        randomised: Whether the network is declared to draw, so answers to equal batches may differ.

    Raises:
        BadNetwork: If either does not hold.
    """
    tolerance = TOLERANCES[precision]
    devices = [probe.device] if probe.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        # without seeding: two answers under one seed would always be equal
        first, second = (logits(probe).cpu() for _ in range(2))
        exact = repeats_exactly(probe.device)
        again = relative(first - second, first, order=torch.inf)
        same = torch.equal(first.nan_to_num(), second.nan_to_num())
        if not (same if exact else bool((again <= tolerance).all())):
            if randomised:
                return
            raise BadNetwork(
                f"answers the same {len(probe)} images differently each time, by up to "
                f"{_percent(again)} of the largest logit: it keeps state between calls, such as a "
                "counter, or draws in eval mode (F.dropout needs training=self.training); only "
                "for draws, the model's YAML may declare `randomised: true`"
            )
        places = [*range(len(probe))]
        places = list(dict.fromkeys((*places[: ALONE // 2], *places[-ALONE // 2 :])))
        try:
            alone = torch.cat([logits(probe[place : place + 1]).cpu() for place in places])
        except Exception as error:
            raise BadNetwork(
                f"does not take an image alone: {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error
        apart = relative(alone - first[places], first[places], order=torch.inf)
    if not (apart <= tolerance).all():
        raise BadNetwork(
            f"answers an image in a batch of {len(probe)} differently than alone, by up to "
            f"{_percent(apart)} of its largest logit: an answer must not depend on other images "
            "(a norm needs running statistics in eval mode)"
        )


def _percent(change: Tensor) -> str:
    return f"{100 * change.max().item():.2g} %"
