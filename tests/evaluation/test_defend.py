import pytest
import torch
from torch import nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor, Crafted, Images
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.none import NoDefense
from tasks.evaluation.defend import defend, draw_logits, predict
from tasks.evaluation.specs import DefendSpec
from tasks.evaluation.stages import BadDefense
from tasks.progress import Progress, silent
from tasks.specs import Problem, Shard

DIGITS = Problem(epsilon=8, classes=10, side=8, pool=40)
COUNT = 7


class Watched(Frozen):
    """Keeps the number of rows of each question."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, classes=10)
        self.asked: list[int] = []

    def logits(self, pixels: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        self.asked.append(len(pixels))
        return super().logits(pixels)


@pytest.fixture
def context() -> Context:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        network[3].weight.mul_(20)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    pool = Images(pixels, torch.arange(40) % 10, torch.arange(40), 10)
    return Context(Watched(network), pool)


@pytest.fixture
def crafted() -> Crafted:
    pixels = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    ids = torch.arange(200, 200 + COUNT)
    return Crafted(pixels, torch.arange(COUNT) % 10, ids, torch.full((COUNT,), -1))


def rows_of(crafted: Crafted) -> Rows:
    return Rows(0, crafted.ids, torch.zeros_like(crafted.ids)).within("defend")


def spec_of(defense: Defense, *, redraws: int = 1, seed: int = 0) -> DefendSpec:
    return DefendSpec(
        defense=defense.resolved(DIGITS),
        shard=Shard(start=200, stop=200 + COUNT),
        seed=seed,
        redraws=redraws,
    )


DEFENSES = {
    "none": NoDefense(),
    "counter": Counter(label_count=4).resolved(DIGITS),
    "guo": Guo(draws=9),
    "mi-ol": MixupInference(draws=6).resolved(DIGITS),
    "counter+guo": Chain(parts=(Counter(), Guo(draws=9))).resolved(DIGITS),
    "guo+counter": Chain(parts=(Guo(), Counter())).resolved(DIGITS),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_prediction_is_the_mean_softmax_over_the_draws(
    name: str, context: Context, crafted: Crafted
) -> None:
    defense, rows = DEFENSES[name], rows_of(crafted)
    logits = draw_logits(defense, context, crafted.pixels, rows)
    assert logits.shape == (COUNT, defense.draws, 10)
    expected = logits.to(torch.float64).softmax(dim=2).mean(dim=1)
    predicted = predict(defense, context, crafted.pixels, rows, 1000)
    torch.testing.assert_close(predicted.to(torch.float64), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 10, 63])
@pytest.mark.parametrize("name", DEFENSES)
def test_the_batch_size_changes_no_answer_and_bounds_every_question(
    name: str, batch_size: int, context: Context, crafted: Crafted
) -> None:
    defense, rows = DEFENSES[name], rows_of(crafted)
    whole = predict(defense, context, crafted.pixels, rows, 10_000)
    classifier = context.classifier
    assert isinstance(classifier, Watched)
    classifier.asked.clear()
    parts = predict(defense, context, crafted.pixels, rows, batch_size)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert max(classifier.asked) <= batch_size


@pytest.mark.parametrize("name", DEFENSES)
def test_an_image_asked_alone_gets_the_answer_that_it_gets_in_a_batch(
    name: str, context: Context, crafted: Crafted
) -> None:
    defense, rows = DEFENSES[name], rows_of(crafted)
    whole = predict(defense, context, crafted.pixels, rows, 16)
    alone = predict(defense, context, crafted.pixels[3:4], rows[3:4], 16)
    torch.testing.assert_close(alone[0], whole[3], atol=1e-5, rtol=0)


def test_a_leading_counter_runs_once_an_image_and_not_once_a_draw(
    context: Context, crafted: Crafted
) -> None:
    predict(DEFENSES["counter+guo"], context, crafted.pixels, rows_of(crafted), 64)
    assert context.classifier.forwards == (1 + 9) * COUNT
    assert context.classifier.backwards == 9 * COUNT


def test_draws_can_be_fewer_than_the_defenses_own(context: Context, crafted: Crafted) -> None:
    rows = rows_of(crafted)
    few = draw_logits(Guo(), context, crafted.pixels, rows, draws=4)
    many = draw_logits(Guo(), context, crafted.pixels, rows)
    assert few.shape == (COUNT, 4, 10)
    torch.testing.assert_close(few, many[:, :4])


def test_the_gradient_of_the_mean_answer_reaches_the_pixels(
    context: Context, crafted: Crafted
) -> None:
    for defense in DEFENSES.values():
        pixels = crafted.pixels.clone().requires_grad_()
        logits = draw_logits(defense, context, pixels, rows_of(crafted), draws=3)
        mean = logits.log_softmax(dim=2).logsumexp(dim=1)
        (gradient,) = torch.autograd.grad(mean[:, 0].sum(), pixels)
        assert torch.isfinite(gradient).all()
        assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


def test_redraws_differ_repeat_under_a_seed_and_do_not_depend_on_their_number(
    context: Context, crafted: Crafted
) -> None:
    three = defend(crafted, context, spec_of(Guo(draws=5), redraws=3), batch_size=32, tell=silent)
    assert three.probabilities.shape == (COUNT, 3, 10)
    first, second, third = three.probabilities.unbind(dim=1)
    for one, other in ((first, second), (first, third), (second, third)):
        assert not torch.isclose(one, other, atol=1e-4).all(dim=1).any()
    again = defend(crafted, context, spec_of(Guo(draws=5), redraws=3), batch_size=32, tell=silent)
    assert torch.equal(again.probabilities, three.probabilities)
    single = defend(crafted, context, spec_of(Guo(draws=5)), batch_size=32, tell=silent)
    torch.testing.assert_close(single.probabilities[:, 0], first)
    other = defend(crafted, context, spec_of(Guo(draws=5), seed=1), batch_size=32, tell=silent)
    assert not torch.equal(other.probabilities, single.probabilities)


def test_redraws_of_a_deterministic_defense_repeat_it(context: Context, crafted: Crafted) -> None:
    spec = spec_of(Counter(), redraws=2)
    assert spec.defense.deterministic(10)
    outcomes = defend(crafted, context, spec, batch_size=3, tell=silent)
    torch.testing.assert_close(outcomes.probabilities[:, 0], outcomes.probabilities[:, 1])


def test_no_defense_gives_the_bare_classifiers_answers(context: Context, crafted: Crafted) -> None:
    outcomes = defend(crafted, context, spec_of(NoDefense()), batch_size=3, tell=silent)
    bare = context.classifier.probabilities(crafted.pixels)
    torch.testing.assert_close(outcomes.probabilities[:, 0], bare)
    assert torch.equal(outcomes.labels, crafted.labels)
    assert torch.equal(outcomes.ids, crafted.ids)
    assert outcomes.probabilities.device.type == "cpu"


def test_a_shard_is_answered_as_its_images_are_in_a_larger_one(
    context: Context, crafted: Crafted
) -> None:
    spec = spec_of(Guo(draws=5), redraws=2)
    whole = defend(crafted, context, spec, batch_size=32, tell=silent)
    part = Crafted(
        *(getattr(crafted, name)[2:5] for name in ("pixels", "labels", "ids", "targets"))
    )
    alone = defend(part, context, spec, batch_size=32, tell=silent)
    torch.testing.assert_close(alone.probabilities, whole.probabilities[2:5])


def test_progress_grows_to_all_images_of_all_redraws(context: Context, crafted: Crafted) -> None:
    told: list[Progress] = []
    spec = spec_of(Guo(draws=5), redraws=2)
    defend(crafted, context, spec, batch_size=8, tell=told.append)
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(2 * COUNT)
    assert {progress.total for progress in told} == {2 * COUNT}
    assert told[0].note == "redraw 1 of 2"
    assert told[-1].note == "redraw 2 of 2"


def test_an_empty_shard_is_refused(context: Context, crafted: Crafted) -> None:
    empty = Crafted(
        *(getattr(crafted, name)[:0] for name in ("pixels", "labels", "ids", "targets"))
    )
    with pytest.raises(BadTensor, match="no examples"):
        defend(empty, context, spec_of(Guo()), batch_size=4, tell=silent)


class Shrinking(Gaussian):
    def transform(self, pixels: torch.Tensor, *_: object) -> torch.Tensor:
        return pixels[..., 1:]


class Undefined(Gaussian):
    def transform(self, pixels: torch.Tensor, *_: object) -> torch.Tensor:
        return pixels / pixels.new_zeros(()) * 0


class Glaring(Gaussian):
    def transform(self, pixels: torch.Tensor, *_: object) -> torch.Tensor:
        return pixels + 1


class InPlace(Gaussian):
    source_digest = "that of a user's code"

    def transform(self, pixels: torch.Tensor, *_: object) -> torch.Tensor:
        pixels.data[..., 1:].mul_(0.5)  # which torch does not count as a change
        return pixels.clone()


@pytest.mark.parametrize(
    ("defense", "fault"),
    [
        (Shrinking(), r"gaussian: returned shape \(7, 1, 8, 7\), expected \(7, 1, 8, 8\)"),
        (Undefined(), "gaussian: .*finite values .* got nan"),
        (Glaring(), r"gaussian: .* in \[0, 1\], got 1"),
        (InPlace(), "gaussian: changes the pixels that it is given"),
    ],
    ids=["shape", "nan", "range", "in-place"],
)
def test_a_transform_that_gives_no_images_is_named_in_one_line(
    defense: Defense, fault: str, context: Context, crafted: Crafted
) -> None:
    chained = Chain(parts=(NoDefense(), defense), draws=1)
    with pytest.raises(BadDefense, match=fault) as caught:
        defend(crafted, context, spec_of(chained), batch_size=64, tell=silent)
    assert "\n" not in str(caught.value)
