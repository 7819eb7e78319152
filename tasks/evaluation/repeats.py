"""Whether code keeps state between calls, so that a result depends on what was asked before.

Results must not depend on the order of batches or on which worker computes what, so a user's own
code is asked the same question twice. The passes for this are not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.classifier.consistent import TOLERANCES, repeats_exactly
from tasks.classifier.prepared import relative
from tasks.data.arrays import Crafted, Images
from tasks.defenses.base import Context
from tasks.evaluation.craft import example_alone
from tasks.evaluation.defend import logits_by_batch, redraw_rows
from tasks.evaluation.specs import CraftSpec, DefendSpec


def defend_repeats(
    crafted: Crafted, context: Context, spec: DefendSpec, first: Tensor, *, batch_size: int
) -> bool:
    """Return whether the first batch of `defend`, predicted again after it, gets the same logits.

    It has the same composition, so the logits have to be equal bit for bit. Where kernels need not
    repeat (see `repeats_exactly`), half of the rows have to be equal within rounding. Those of a
    randomised classifier are not compared.

    Args:
        crafted: The examples given to `defend`.
        context: The classifier, on whose device `defend` ran.
        spec: The defense and the seed.
        first: The logits of the first batch, see `Seen.first`.
        batch_size: That of `defend`.
    """
    classifier = context.classifier
    if classifier.randomised:
        return True
    part = crafted[:batch_size]
    pixels, ids = part.pixels.to(classifier.device), part.ids.to(classifier.device)
    rows = redraw_rows(spec, ids, 0)
    with torch.no_grad(), classifier.aside():
        again = next(logits_by_batch(spec.defense, context, pixels, rows, batch_size))
    if repeats_exactly(classifier.device, compiled=classifier.compiled):
        return torch.equal(again, first)
    apart = relative(again - first, first, order=torch.inf)
    return apart.median().item() <= TOLERANCES[classifier.precision]


def craft_probe(
    images: Images, context: Context, spec: CraftSpec, *, start: Crafted | None
) -> Tensor | None:
    """Return the example of the first image, made alone, to compare before and after `craft`.

    A whole batch would take as long again as the attack. None if there is no image, or if two
    examples need not be equal: those of a randomised classifier, or where kernels need not repeat,
    since rounding changes the sign of a gradient.

    Args:
        images: Those given to `craft`.
        context: The classifier.
        spec: What to make.
        start: That given to `craft`.

    Returns:
        float32 [1, C, H, W], or None.
    """
    classifier = context.classifier
    exact = repeats_exactly(classifier.device, compiled=classifier.compiled)
    if not len(images) or classifier.randomised or not exact:
        return None
    with classifier.aside():
        return example_alone(images, context, spec, start=start)
