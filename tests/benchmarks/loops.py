"""Defenses in the way of publications' own code: one image and one draw at a time.

Each draw is transformed by PIL and asked alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from subjects import CLASSES, SIDE, Subject
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

from tasks.defenses.base import Defense
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference


def guo_loop(images: Subject, defense: Defense) -> Callable[[], Tensor]:
    """Probabilities, float32 [N, classes]."""
    assert isinstance(defense, Guo)
    smallest, largest = (round(SIDE * share) for share in (defense.smallest, defense.largest))

    def run() -> Tensor:
        answers = []
        for pixels in images.pixels.cpu():
            picture = pictures.to_pil_image(pixels)
            total = torch.zeros(CLASSES)
            for _ in range(defense.draws):
                size = int(torch.randint(smallest, largest + 1, ()))
                left, top = (int(torch.randint(0, SIDE + 1 - size, ())) for _ in range(2))
                window = picture.crop((left, top, left + size, top + size))
                window = window.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                total += _alone(images, pictures.to_dtype(pictures.to_image(window), scale=True))
            answers.append(total / defense.draws)
        return torch.stack(answers)

    return run


def mi_ol_loop(images: Subject, defense: Defense) -> Callable[[], Tensor]:
    """Probabilities, float32 [N, classes]."""
    assert isinstance(defense, MixupInference)
    weight = defense.input_weight
    pool = images.pool

    def run() -> Tensor:
        answers = []
        for pixels in images.pixels.cpu():
            predicted = int(_alone(images, pixels).argmax())
            others = [
                place for place, label in enumerate(pool.labels.tolist()) if label != predicted
            ]
            total = torch.zeros(CLASSES)
            for _ in range(defense.draws):
                place = others[int(torch.randint(0, len(others), ()))]
                partner = pool.pixels[place].float() / 255
                total += _alone(images, weight * pixels + (1 - weight) * partner)
            answers.append(total / defense.draws)
        return torch.stack(answers)

    return run


def _alone(images: Subject, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = images.module(pixels[None].to(images.device))
    return logits.softmax(dim=1)[0].cpu()
