import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Images, as_float
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.mi_ol import MixupInference
from tasks.specs import Problem


class BrightestColumn(nn.Module):
    """Predicts the column with the highest sum, of ten."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.sum(dim=(1, 2)) * 4


def pool_of(labels: list[int]) -> Images:
    """Images whose every pixel is their place in the pool."""
    places = torch.arange(len(labels), dtype=torch.uint8)
    pixels = places[:, None, None, None].expand(-1, 1, 10, 10).contiguous()
    return Images(pixels, torch.tensor(labels), torch.arange(len(labels)), 10)


def context(labels: list[int]) -> Context:
    return Context(Frozen(BrightestColumn(), classes=10), pool_of(labels))


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and the class that each is predicted to be."""
    classes = torch.arange(count) % 10
    pixels = torch.rand(count, 1, 10, 10, generator=torch.Generator().manual_seed(2)) / 10
    pixels[torch.arange(count), 0, :, classes] = 0.9
    return pixels, classes


def rows_of(count: int) -> Rows:
    images = torch.arange(count)
    return Rows(0, images, torch.zeros_like(images))


def partners_of(spec: MixupInference, where: Context, count: int) -> torch.Tensor:
    """int64 [count]: the place in the pool that each input was mixed with."""
    pixels, _ = inputs(count)
    mixed = spec.transform(pixels, rows_of(count), where)
    clean = (mixed - spec.input_weight * pixels) / (1 - spec.input_weight)
    places = (clean * 255).round()
    torch.testing.assert_close(clean * 255, places, atol=1e-2, rtol=0)
    assert (places == places[:, :, :1, :1]).all()
    return places[:, 0, 0, 0].to(torch.int64)


LABELS = [place * 7 % 10 for place in range(50)]


@pytest.mark.parametrize("weight", [0.5, 0.6])
def test_it_never_mixes_with_the_predicted_class(weight: float) -> None:
    partners = partners_of(MixupInference(input_weight=weight), context(LABELS), 5000)
    mixed_with = torch.tensor(LABELS)[partners]
    assert not (mixed_with == inputs(5000)[1]).any()
    assert set(partners.tolist()) == set(range(50))


def test_classes_are_drawn_evenly_however_many_images_each_has() -> None:
    labels = [0] * 1 + [1] * 30 + [2] * 9 + [5] * 10
    partners = partners_of(MixupInference(), context(labels), 9000)
    not_among = inputs(9000)[1] == 9
    chosen = torch.tensor(labels)[partners][not_among].bincount(minlength=10)
    assert (chosen > 0).nonzero()[:, 0].tolist() == [0, 1, 2, 5]
    assert (chosen[[0, 1, 2, 5]] - 225).abs().max() < 5 * math.sqrt(225)


def test_images_of_a_class_are_drawn_evenly() -> None:
    partners = partners_of(MixupInference(), context([3] * 20 + [4] * 20), 8000)
    predicted = inputs(8000)[1]
    for other in (3, 4):
        counts = partners[predicted == other].bincount(minlength=40)
        allowed = counts[:20] if other == 4 else counts[20:]
        assert (allowed - 40).abs().max() < 5 * math.sqrt(40)


def test_only_the_first_images_of_the_pool_are_mixed_in() -> None:
    partners = partners_of(MixupInference(pool_size=20), context(LABELS), 2000)
    assert set(partners.tolist()) == set(range(20))


def test_a_larger_size_than_the_pool_takes_the_whole_pool() -> None:
    spec = MixupInference().resolved(Problem(epsilon=8, classes=10, side=10, pool=400))
    assert spec.pool_size == 400
    assert set(partners_of(spec, context(LABELS), 5000).tolist()) == set(range(50))


def test_the_mixture_is_the_weighted_sum_and_in_range_at_its_ends() -> None:
    spec, where = MixupInference(input_weight=0.6), context([1, 2, 3])
    assert where.pool is not None
    pixels, predicted = inputs(30)
    rows = rows_of(30)
    mixed = spec.transform(pixels, rows, where)
    clean = as_float(where.pool.pixels[spec.partners(predicted, where.pool, rows)])
    torch.testing.assert_close(mixed, 0.6 * pixels + 0.4 * clean)
    white = replace(where.pool, pixels=torch.full_like(where.pool.pixels, 255))
    ones = torch.ones(30, 1, 10, 10)
    assert torch.equal(spec.transform(ones, rows, Context(where.classifier, white)), ones)


def test_a_pool_of_the_predicted_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="no image of a class other than"):
        partners_of(MixupInference(), context([4, 4, 4]), 10)


def test_the_draws_of_one_image_ask_for_its_class_once() -> None:
    where = context(LABELS)
    pixels, _ = inputs(6)
    rows = rows_of(6).repeated(torch.arange(30))
    MixupInference().transform(pixels.repeat_interleave(30, dim=0), rows, where)
    assert where.classifier.forwards == 6


def test_the_gradient_is_the_input_weight() -> None:
    pixels, _ = inputs(8)
    pixels.requires_grad_()
    mixed = MixupInference(input_weight=0.6).transform(pixels, rows_of(8), context(LABELS))
    (gradient,) = torch.autograd.grad(mixed.sum(), pixels)
    torch.testing.assert_close(gradient, torch.full_like(pixels, 0.6))
