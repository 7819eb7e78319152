import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Images
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.none import NoDefense
from tasks.defenses.rotation import Rotation
from tasks.defenses.xie import Xie
from tasks.evaluation.defend import draw_count, predict, split_stages
from tasks.specs import Problem

DIGITS = Problem(epsilon=8, classes=10, side=8, pool=40)


@pytest.fixture
def context() -> Context:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    pool = Images(pixels, torch.arange(40) % 10, torch.arange(40), 10)
    return Context(Frozen(network, classes=10), pool)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def rows() -> Rows:
    images = torch.arange(5)
    return Rows(0, images, torch.zeros_like(images)).within("defend")


def chain(*parts: Defense) -> Chain:
    return Chain(parts=parts).resolved(DIGITS)


def test_parts_are_applied_in_their_order(
    context: Context, pixels: torch.Tensor, rows: Rows
) -> None:
    xie, guo = Xie(), Guo()
    first = xie.transform(pixels, rows.within("xie#0"), context)
    expected = guo.transform(first, rows.within("guo#0"), context)
    assert torch.equal(chain(xie, guo).transform(pixels, rows, context), expected)
    assert not torch.equal(chain(guo, xie).transform(pixels, rows, context), expected)


@pytest.mark.parametrize(
    ("parts", "draws"),
    [
        ((Counter(), Guo()), 50),
        ((Counter(), MixupInference()), 30),
        ((MixupInference(), Guo(draws=7)), 7),
        ((Guo(), Counter()), 1),
        ((Counter(), NoDefense()), 1),
    ],
)
def test_the_number_of_draws_is_that_of_the_last_part(
    parts: tuple[Defense, ...], draws: int
) -> None:
    assert chain(*parts).draws == draws
    assert draw_count(chain(*parts)) == draws


def test_only_leading_parts_are_applied_once_a_prediction() -> None:
    once, each = split_stages(chain(NoDefense(), Counter(), Guo(), Counter(label_count=3)))
    assert [scope for scope, _ in once] == ["none#0", "counter#0"]
    assert [scope for scope, _ in each] == ["guo#0", "counter#1"]


def test_one_kind_twice_draws_twice(context: Context, pixels: torch.Tensor, rows: Rows) -> None:
    deviation = 2.55
    noise = Gaussian(standard_deviation_255ths=deviation)
    grey = torch.full((5, 1, 8, 8), 0.5)
    twice = chain(noise, noise).transform(grey, rows, context) - 0.5
    scopes = [scope for scope, _ in chain(noise, noise).stages()]
    assert scopes == ["gaussian#0", "gaussian#1"]
    assert twice.std().item() * 255 == pytest.approx(deviation * math.sqrt(2), rel=0.15)


def test_a_defense_alone_and_at_the_end_of_a_chain_take_the_same_draws(
    context: Context, pixels: torch.Tensor, rows: Rows
) -> None:
    alone = predict(Guo(), context, pixels, rows, 64)
    chained = predict(chain(NoDefense(), Guo()), context, pixels, rows, 64)
    assert torch.equal(alone, chained)
    countered = chain(Counter(), Guo())
    moved = Counter().resolved(DIGITS).transform(pixels, rows.within("counter#0"), context)
    torch.testing.assert_close(
        predict(countered, context, pixels, rows, 64), predict(Guo(), context, moved, rows, 64)
    )


def test_mi_ol_predicts_on_what_the_part_before_it_gives(
    context: Context, pixels: torch.Tensor, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = MixupInference.partners

    def watched(predicted: torch.Tensor, pool: Images, rows: Rows) -> torch.Tensor:
        seen.append(predicted)
        return plain(predicted, pool, rows)

    pixels = torch.eye(8).expand(5, 1, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    # Class 0 is the one diagonal, class 1 the other: a quarter turn swaps them.
    diagonal = torch.eye(8)
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0] = diagonal.flatten()
        network[1].weight[1] = diagonal.flip(1).flatten()
    context = Context(Frozen(network, classes=10), context.pool)

    monkeypatch.setattr(MixupInference, "partners", staticmethod(watched))
    monkeypatch.setattr(Rotation, "transform", lambda *given: given[1].rot90(1, (2, 3)))
    chain(Rotation(), MixupInference()).transform(pixels, rows, context)
    assert context.classifier.logits(pixels).argmax(dim=1).tolist() == [0] * 5
    assert seen[0].tolist() == [1] * 5


def test_a_chain_is_deterministic_when_every_part_is() -> None:
    assert chain(Counter(), NoDefense()).deterministic(10)
    assert not chain(Counter(), Guo()).deterministic(10)
    assert not Chain(parts=(Counter(), NoDefense())).deterministic(100)


def test_resolving_a_chain_resolves_its_parts() -> None:
    counter, mixup = chain(Counter(), MixupInference()).parts
    assert counter == Counter().resolved(DIGITS)
    assert mixup == MixupInference().resolved(DIGITS)


def test_a_chain_needs_a_pool_when_a_part_does() -> None:
    assert chain(Counter(), MixupInference()).needs_pool()
    assert not chain(Counter(), Guo()).needs_pool()


def test_a_chain_in_a_chain_is_the_longer_chain(
    context: Context, pixels: torch.Tensor, rows: Rows
) -> None:
    nested = chain(chain(Counter(), Guo()), Guo())
    flat = chain(Counter(), Guo(), Guo())
    assert nested.stages() == flat.stages()
    assert torch.equal(
        nested.transform(pixels, rows, context), flat.transform(pixels, rows, context)
    )


def test_every_parameter_of_a_part_is_in_what_a_chain_writes_down() -> None:
    written = chain(Counter(), Guo()).model_dump(mode="json")
    assert written["parts"][0]["limit"] == 8
    assert written["parts"][1]["smallest"] == 0.75


def test_a_chain_of_nothing_and_a_chain_of_two_pools_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Chain(parts=())
    with pytest.raises(ValidationError, match="one pool"):
        Chain(parts=(MixupInference(), MixupInference(pool="test")))
