"""Contract tests: a new defense is tested by being there."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tasks import registry
from tasks.classifier.frozen import Frozen
from tasks.contract import check_defense
from tasks.data.arrays import Images
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.counter import Counter
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.rotation import Rotation
from tasks.defenses.xie import Xie
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.defend import draw_logits, predict
from tasks.specs import Passes, Problem

KINDS = registry.kinds("defenses")
NEEDED = {"chain": {"parts": (Counter(), Guo())}}
SHAPES = {"digits": (1, 8, 8), "photographs": (3, 32, 32)}


def problem(shape: tuple[int, int, int]) -> Problem:
    return Problem(epsilon=8, classes=10, side=shape[1], pool=60)


def context(shape: tuple[int, int, int], *, scale: float = 1.0) -> Context:
    generator = torch.Generator().manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 10))
    with torch.no_grad():
        weight = torch.randn(network[1].weight.shape, generator=generator)
        network[1].weight.copy_(scale * weight)
    pixels = torch.randint(0, 256, (60, *shape), generator=generator, dtype=torch.uint8)
    pool = Images(pixels, torch.arange(60) % 10, torch.arange(60), 10)
    return Context(Frozen(network, classes=10), pool)


def made(kind: str, shape: tuple[int, int, int]) -> Defense:
    spec = registry.kind_class("defenses", kind)(**NEEDED.get(kind, {}))
    assert isinstance(spec, Defense)
    return spec.resolved(problem(shape))


def batch(shape: tuple[int, int, int], count: int = 12) -> torch.Tensor:
    pixels = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    pixels[0], pixels[1] = 0.0, 1.0
    return pixels


def rows_of(images: torch.Tensor, draw: int = 0, seed: int = 0) -> Rows:
    return Rows(seed, images, torch.full_like(images, draw)).within("defend")


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    value: tuple[int, int, int] = request.param
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_a_transform_keeps_shape_type_range_and_its_input(
    kind: str, shape: tuple[int, int, int]
) -> None:
    pixels = batch(shape)
    before = pixels.clone()
    defense = made(kind, shape)
    result = defense.transform(pixels, rows_of(torch.arange(12)), context(shape))
    assert result.shape == (12 * defense.views(10), *shape)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    if not defense.leaves_range():
        assert result.min() >= 0
        assert result.max() <= 1
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_transformed_alone_as_in_any_batch_and_order(
    kind: str, shape: tuple[int, int, int]
) -> None:
    defense, where = made(kind, shape), context(shape)
    pixels, images = batch(shape), torch.arange(100, 112)

    def transformed(pixels: torch.Tensor, rows: Rows) -> torch.Tensor:
        found = defense.transform(pixels, rows, where)
        return found.view(len(pixels), -1, *shape)  # [M, views, C, H, W]

    together = transformed(pixels, rows_of(images))
    backwards = transformed(pixels.flip(0), rows_of(images.flip(0)))
    torch.testing.assert_close(backwards.flip(0), together, atol=1e-6, rtol=0)
    for row in (0, 5, 11):
        alone = transformed(pixels[row : row + 1], rows_of(images[row : row + 1]))
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_another_image_draw_or_seed_gives_another_transform(
    kind: str, shape: tuple[int, int, int]
) -> None:
    defense, where = made(kind, shape), context(shape)
    pixels = batch(shape)[4:5].expand(12, *shape)
    images = torch.arange(12)
    first = defense.transform(pixels, rows_of(images), where)
    assert torch.equal(defense.transform(pixels, rows_of(images), where), first)
    others = (
        defense.transform(pixels, rows_of(images, draw=1), where),
        defense.transform(pixels, rows_of(images, seed=1), where),
        defense.transform(pixels, rows_of(images + 12), where),
    )
    for other in others:
        if defense.deterministic(10):
            torch.testing.assert_close(other, first, atol=1e-6, rtol=0)
        else:
            same = (other == first).flatten(1).all(dim=1)
            assert same.sum() < len(same) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_comes_back_through_every_transform(
    kind: str, shape: tuple[int, int, int]
) -> None:
    pixels = batch(shape).requires_grad_()
    result = made(kind, shape).transform(pixels, rows_of(torch.arange(12)), context(shape))
    (gradient,) = torch.autograd.grad(result.sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_defense_declares_itself(kind: str, shape: tuple[int, int, int]) -> None:
    defense = made(kind, shape)
    assert defense.kind == kind
    assert defense.draws >= 1
    assert defense.resolved(problem(shape)) == defense
    assert all(part.kind in KINDS for _, part in defense.stages())
    with pytest.raises(ValidationError):
        type(defense)(**NEEDED.get(kind, {}), unheard_of=1)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_defense_that_needs_a_pool_reads_it(kind: str, shape: tuple[int, int, int]) -> None:
    defense = made(kind, shape)
    without = Context(context(shape).classifier)
    pixels, rows = batch(shape), rows_of(torch.arange(12))
    if defense.needs_pool():
        with pytest.raises(ValueError, match="pool"):
            defense.transform(pixels, rows, without)
    else:
        assert defense.transform(pixels, rows, without).shape[1:] == shape


@pytest.mark.parametrize("kind", KINDS)
def test_every_defense_keeps_the_contract_of_a_users_own(
    kind: str, shape: tuple[int, int, int]
) -> None:
    spec = registry.kind_class("defenses", kind)(**NEEDED.get(kind, {}))
    assert isinstance(spec, Defense)
    check_defense(spec, channels=shape[0], side=shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_defense_asks_the_classifier_as_often_as_it_says(
    kind: str, shape: tuple[int, int, int]
) -> None:
    defense, where = made(kind, shape), context(shape)
    before = where.classifier.passes
    predict(defense, where, batch(shape), rows_of(torch.arange(12)), 10**6)
    passes = prediction_passes(defense, 10) * 12
    assert where.classifier.passes - before == Passes(passes.forwards, passes.backwards)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_differentiably_is_what_is_predicted(
    kind: str, shape: tuple[int, int, int]
) -> None:
    defense, where = made(kind, shape), context(shape)
    pixels, rows = batch(shape, 4), rows_of(torch.arange(4))
    predicted = predict(defense, where, pixels, rows, 7)
    logits = draw_logits(defense, where, pixels, rows)
    answers = logits.softmax(dim=2).mean(dim=1)
    torch.testing.assert_close(answers, predicted.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_that_is_declared_lets_a_gradient_through(
    kind: str, shape: tuple[int, int, int]
) -> None:
    # of a network that is not so sure that nothing moves its probabilities
    defense, where = made(kind, shape), context(shape, scale=0.02)
    pixels, rows = batch(shape, 4), rows_of(torch.arange(4))
    for rule in defense.gradients():
        leaf = pixels.clone().requires_grad_()
        logits = draw_logits(defense, replace(where, rule=rule), leaf, rows, draws=2)
        (gradient,) = torch.autograd.grad(logits[..., 0].sum(), leaf)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().amax(dim=1) > 0).all(), rule


def test_importing_every_defense_imports_no_torch() -> None:
    code = (
        "import sys; from tasks import registry; from tasks.evaluation import specs;"
        "[registry.kind_class('defenses', kind) for kind in registry.kinds('defenses')];"
        "sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()


def test_defaults_are_the_papers_at_32_pixels_and_8_255ths() -> None:
    cifar = Problem(epsilon=8, classes=10, side=32, pool=50_000)
    counter = Counter().resolved(cifar)
    assert (counter.label_count, counter.step_size, counter.limit) == (9, 4, 8)
    assert counter.direction == "targeted"
    assert [kind().draws for kind in (Xie, Guo, Gaussian, Rotation)] == [50] * 4
    assert Gaussian().standard_deviation_255ths == pytest.approx(0.025 * 255)
    assert Rotation().limit_deg == 20
    mixup = MixupInference().resolved(cifar)
    assert (mixup.draws, mixup.input_weight, mixup.pool, mixup.pool_size) == (
        30,
        0.5,
        "train",
        10_000,
    )
    assert MixupInference().resolved(problem((1, 8, 8))).pool_size == 60


@pytest.mark.parametrize("kind", [Xie, Guo])
def test_a_size_range_the_wrong_way_round_is_refused(kind: type[Defense]) -> None:
    with pytest.raises(ValidationError, match="above largest"):
        kind(smallest=0.9, largest=0.8)


def test_xie_refuses_an_interpolation_where_nothing_is_resized() -> None:
    with pytest.raises(ValidationError, match="crop-pad resizes nothing"):
        Xie(form="crop-pad", interpolation="nearest")


def drawn(defense: Defense, image: torch.Tensor, count: int = 6000) -> torch.Tensor:
    """One image under `count` draws."""
    shape = tuple(image.shape)
    pixels = image.expand(count, *shape)
    rows = Rows(0, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return defense.transform(pixels, rows.repeated(torch.arange(count)), context((1, 8, 8)))


def all_places(side: int, smallest: int) -> set[tuple[int, int]]:
    return {(size, place) for size in range(smallest, side + 1) for place in range(side - size + 1)}


@pytest.mark.parametrize("form", ["resize-pad", "crop-pad"])
def test_xie_puts_every_size_at_every_place(form: str) -> None:
    result = drawn(Xie(form=form), torch.ones(1, 16, 16))[:, 0] > 0
    for lines in (result.any(dim=2), result.any(dim=1)):
        sizes, places = lines.sum(dim=1), lines.to(torch.int64).argmax(dim=1)
        seen = set(zip(sizes.tolist(), places.tolist(), strict=True))
        assert seen == all_places(16, 12)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("defense", [Guo(), Xie(form="crop-pad")], ids=["guo", "xie"])
def test_every_window_of_every_size_is_cut_out(defense: Defense, axis: int) -> None:
    ramp = torch.arange(1, 17).to(torch.float32) / 16
    image = (ramp[:, None] if axis == 1 else ramp[None, :]).expand(1, 16, 16)
    lines = drawn(defense, image)[:, 0].amax(dim=3 - axis) * 16 - 1
    first = lines.masked_fill(lines < -0.5, 99).amin(dim=1)
    last = lines.amax(dim=1)
    sizes, places = (last - first).round().to(torch.int64) + 1, first.round().to(torch.int64)
    seen = set(zip(sizes.tolist(), places.tolist(), strict=True))
    assert seen == all_places(16, 12)


@pytest.mark.parametrize("interpolation", ["nearest", "antialiased"])
def test_xie_draws_the_same_sizes_and_places_whatever_the_interpolation(interpolation: str) -> None:
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.1
    result = drawn(Xie(interpolation=interpolation), image, 200)
    bilinear = drawn(Xie(), image, 200)
    assert torch.equal(result > 0, bilinear > 0)
    assert not torch.equal(result, bilinear)


def test_rotation_covers_its_angles_evenly() -> None:
    ramp = (torch.arange(16).to(torch.float32) / 15).expand(1, 16, 16)
    result = drawn(Rotation(), ramp)[:, 0]
    slope = (result[:, 8, 8] - result[:, 7, 8]) * 15
    angles = -torch.asin(slope) * 180 / math.pi
    assert angles.abs().max() <= 20.01
    counts = torch.histc(angles, bins=20, min=-20, max=20)
    assert (counts - 300).abs().max() < 5 * math.sqrt(300)


def test_gaussian_noise_has_the_deviation_that_it_says() -> None:
    noise = drawn(Gaussian(), torch.full((1, 16, 16), 0.5), count=400) - 0.5
    assert abs(noise.mean().item()) < 4 * 0.025 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(0.025, rel=0.01)
    apart = torch.corrcoef(torch.stack((noise[0].flatten(), noise[1].flatten())))[0, 1]
    assert abs(apart.item()) < 0.3


@pytest.mark.parametrize(
    ("plain", "rounding"),
    [
        (Xie(), Xie(round_to_8_bits=True)),
        (Guo(), Guo(round_to_8_bits=True)),
        (Rotation(), Rotation(round_to_8_bits=True)),
    ],
    ids=["xie", "guo", "rotation"],
)
def test_rounding_to_8_bits_comes_before_the_transform(plain: Defense, rounding: Defense) -> None:
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    stored = (image * 255).round() / 255
    assert torch.equal(drawn(rounding, image, 20), drawn(plain, stored, 20))
    assert not torch.equal(drawn(rounding, image, 20), drawn(plain, image, 20))
