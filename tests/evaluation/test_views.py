"""Views and what is made of them, surrogates, abstentions, and where a defense acts."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tasks.classifier.frozen import Frozen
from tasks.contract import BrokenContract, check_defense
from tasks.data.arrays import BadTensor, Crafted, Images, Outcomes
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense, GradientRule
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.flip_crop import FlipCrop
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.hedge import Hedge
from tasks.defenses.none import NoDefense
from tasks.evaluation.costs import prediction_passes, query_passes
from tasks.evaluation.defend import acted, defend, draw_logits, predict
from tasks.evaluation.draws import draw_count, split_stages
from tasks.evaluation.score import joined, score
from tasks.evaluation.select import select
from tasks.evaluation.specs import DefendSpec, SelectSpec
from tasks.evaluation.stages import BadDefense
from tasks.evaluation.victim import defended
from tasks.progress import silent
from tasks.specs import Passes, Problem, Shard

COUNT, CLASSES = 6, 10


class Mirrored(Defense):
    """The image and its mirror image: two views, whose logits are averaged."""

    def deterministic(self, classes: int) -> bool:
        return True

    def views(self, classes: int) -> int:
        return 2

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        return torch.stack((pixels, pixels.flip(3)), dim=1).flatten(0, 1)

    def combine(self, logits: Tensor) -> Tensor:
        return logits.mean(dim=-2).log_softmax(dim=-1)


class Voting(Gaussian):
    """A vote in each draw; no answer where fewer than half of the votes agree."""

    kind: str = "voting"  # type: ignore[assignment]
    draws: int = 8
    standard_deviation_255ths: float = 60.0
    floor: ClassVar[float] = -80.0

    def gradients(self) -> tuple[GradientRule, ...]:
        return ("surrogate",)

    def combine(self, logits: Tensor) -> Tensor:
        votes = nn.functional.one_hot(logits[..., 0, :].argmax(dim=-1), logits.shape[-1])
        return torch.where(votes == 1, 0.0, self.floor)

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor:
        return (probabilities.amax(dim=-1) * draws).round() < draws / 2


class Misshapen(Mirrored):
    def combine(self, logits: Tensor) -> Tensor:
        return logits


@pytest.fixture(scope="module")
def context() -> Context:
    generator = torch.Generator().manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(CLASSES, 64, generator=generator))
    return Context(Frozen(network, classes=CLASSES))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def crafted(pixels: Tensor, context: Context) -> Crafted:
    ids = torch.arange(COUNT)
    labels = context.classifier.logits(pixels).argmax(dim=1)
    return Crafted(pixels, labels, ids, torch.full_like(ids, -1))


def rows_of(count: int = COUNT) -> Rows:
    ids = torch.arange(count)
    return Rows(0, ids, torch.zeros_like(ids)).within("defend")


def asked(spec: Defense, crafted: Crafted, context: Context, redraws: int = 3) -> Outcomes:
    shard = Shard(start=0, stop=COUNT)
    made = DefendSpec(defense=spec, shard=shard, seed=0, redraws=redraws)
    return defend(crafted, context, made, batch_size=7, tell=silent)


def test_a_prediction_combines_all_views(context: Context, pixels: Tensor) -> None:
    logits = [context.classifier.logits(each).double() for each in (pixels, pixels.flip(3))]
    expected = ((logits[0] + logits[1]) / 2).softmax(dim=1).float()
    for batch_size in (1, 3, 100):
        found = predict(Mirrored(), context, pixels, rows_of(), batch_size)
        torch.testing.assert_close(found.float(), expected)
    assert prediction_passes(Mirrored(), CLASSES) == Passes(forwards=2)


def test_views_are_made_in_each_draw_of_the_parts_before(context: Context, pixels: Tensor) -> None:
    noise = Gaussian(draws=1)
    chain = Chain(parts=(noise, Mirrored()), draws=3)
    repeated = rows_of().repeated(torch.arange(3))
    drawn = noise.transform(
        pixels.repeat_interleave(3, dim=0), repeated.within("gaussian#0"), context
    )
    logits = [context.classifier.logits(each) for each in (drawn, drawn.flip(3))]
    each_draw = ((logits[0] + logits[1]) / 2).softmax(dim=1).view(COUNT, 3, CLASSES)
    found = predict(chain, context, pixels, rows_of(), 5)
    torch.testing.assert_close(found.float(), each_draw.mean(dim=1))
    torch.testing.assert_close(
        draw_logits(chain, context, pixels, rows_of()).softmax(dim=2), each_draw
    )
    assert prediction_passes(chain, CLASSES) == Passes(forwards=6)


def test_views_follow_what_is_applied_once_a_prediction(context: Context, pixels: Tensor) -> None:
    chain = Chain(parts=(Counter(), Mirrored())).resolved(Problem(8, CLASSES, 8, 0))
    once, each = split_stages(chain)
    assert ([name for name, _ in once], [name for name, _ in each]) == (
        ["counter#0"],
        ["mirrored#0"],
    )
    assert draw_count(chain) == 1
    moved = chain.parts[0].transform(pixels, rows_of().within("counter#0"), context)
    expected = predict(Mirrored(), context, moved, rows_of(), 100)
    torch.testing.assert_close(predict(chain, context, pixels, rows_of(), 100), expected)


def test_iterates_and_views_of_one_chain_are_both_asked(context: Context, pixels: Tensor) -> None:
    chain = Chain(parts=(Hedge(steps=2), Mirrored()))
    knowing = Context(context.classifier, rule="iterates")
    rows = rows_of()
    moved = Hedge(steps=2).iterates(pixels, rows.within("hedge#0"), context)
    answers = predict(Mirrored(), context, moved, rows_of(3 * COUNT), 100)
    expected = answers.view(COUNT, 3, CLASSES).mean(dim=1)
    found = draw_logits(chain, knowing, pixels, rows)
    torch.testing.assert_close(found[:, 0].exp(), expected.float())


def test_classes_that_differ_by_less_than_float32_tells_are_told_apart(
    context: Context, pixels: Tensor
) -> None:
    class Certain(Mirrored):
        """Every class nearly certain, class 7 a little more."""

        def combine(self, logits: Tensor) -> Tensor:
            nearly = torch.full_like(logits[..., 0, :], -2e-12)
            nearly[..., 7] = -1e-12
            return nearly

    assert (predict(Certain(), context, pixels, rows_of(), 100).argmax(dim=1) == 7).all()


def test_only_the_last_part_of_a_chain_has_views() -> None:
    with pytest.raises(ValueError, match="mirrored combines several answers.*put it last"):  # noqa: RUF043
        Chain(parts=(Mirrored(), FlipCrop()))
    with pytest.raises(ValueError, match="voting combines several answers"):
        Chain(parts=(Chain(parts=(Voting(),)), NoDefense()))


def test_what_a_combine_gives_must_have_its_shape(context: Context, pixels: Tensor) -> None:
    with pytest.raises(BadDefense, match="misshapen: combined"):
        predict(Misshapen(), context, pixels, rows_of(), 100)
    with pytest.raises(BrokenContract, match="its combine gives"):
        check_defense(Misshapen())


def test_the_contract_holds_for_views_and_votes() -> None:
    check_defense(Mirrored())
    check_defense(Voting())


class Unsurrogated(Voting):
    def gradients(self) -> tuple[GradientRule, ...]:
        return ("straight-through",)


def test_votes_without_a_surrogate_break_the_contract() -> None:
    with pytest.raises(BrokenContract, match="declare `surrogate`"):
        check_defense(Unsurrogated())


def test_a_prediction_counts_votes_and_an_attack_climbs_the_surrogate(
    context: Context, pixels: Tensor
) -> None:
    spec, rows = Voting(), rows_of()
    found = predict(spec, context, pixels, rows, 9)
    repeated = rows.repeated(torch.arange(8))
    drawn = spec.transform(pixels.repeat_interleave(8, dim=0), repeated.within("voting#0"), context)
    bare = context.classifier.logits(drawn)
    votes = nn.functional.one_hot(bare.argmax(dim=1), CLASSES).view(COUNT, 8, CLASSES)
    torch.testing.assert_close(found, votes.double().mean(dim=1))
    victim = defended(spec, context, rows, draws=8)
    leaf = pixels.clone().requires_grad_()
    climbed = victim.logits(leaf, 0)
    assert not ((climbed.exp() * 8).round() == climbed.exp() * 8).all()  # no shares of votes
    (gradient,) = torch.autograd.grad(climbed[:, 0].sum(), leaf)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    assert victim.judged is not None
    shares = victim.judged(pixels, 0).exp() * 8
    torch.testing.assert_close(shares, shares.round(), atol=0.05, rtol=0)


def test_a_surrogate_of_a_chains_last_part_is_taken_by_every_rule_of_an_attacker(
    context: Context, pixels: Tensor
) -> None:
    chain = Chain(parts=(Hedge(steps=1), Voting()))
    assert chain.gradients() == ("surrogate", "iterates")
    for rule in chain.gradients():
        leaf = pixels.clone().requires_grad_()
        knowing = Context(context.classifier, rule=rule)
        logits = draw_logits(chain, knowing, leaf, rows_of(), draws=2)
        (gradient,) = torch.autograd.grad(logits[..., 0].sum(), leaf)
        assert gradient.abs().max() > 0


def test_an_abstention_is_stored_and_is_wrong(context: Context, crafted: Crafted) -> None:
    outcomes = asked(Voting(), crafted, context)
    assert outcomes.abstained is not None
    least = outcomes.probabilities.amax(dim=2) < 0.5
    assert torch.equal(outcomes.abstained, least)
    assert outcomes.abstained.any()
    assert not outcomes.abstained.all()
    right = (outcomes.predicted == outcomes.labels[:, None]) & ~least
    assert torch.equal(outcomes.correct, right)
    assert score(outcomes).accuracy == pytest.approx(100 * right.double().mean().item())
    columns = outcomes.columns()
    assert columns["abstained"].dtype == torch.uint8
    again = Outcomes.of_columns(columns)
    assert torch.equal(again.abstained, outcomes.abstained)  # type: ignore[arg-type]


def test_what_always_answers_has_no_mask(context: Context, crafted: Crafted) -> None:
    outcomes = asked(Mirrored(), crafted, context)
    assert outcomes.abstained is None
    assert outcomes.columns().keys() == {"probabilities", "labels", "ids"}


def test_shards_are_joined_with_their_masks(context: Context, crafted: Crafted) -> None:
    parts = [asked(Voting(), crafted[slice(a, b)], context) for a, b in ((0, 2), (2, COUNT))]
    assert torch.equal(
        joined(parts).abstained,  # type: ignore[arg-type]
        torch.cat([part.abstained for part in parts]),  # type: ignore[misc]
    )
    with pytest.raises(BadTensor, match="some shards abstain"):
        joined([parts[0], asked(Mirrored(), crafted[2:], context)])


def test_a_mask_must_fit_its_answers() -> None:
    share = torch.full((2, 3, 4), 0.25)
    ids = torch.arange(2)
    with pytest.raises(BadTensor, match=r"abstained: expected bool \(2, 3\)"):
        Outcomes(share, ids, ids, torch.zeros(2, dtype=torch.bool))


def test_a_candidate_that_makes_a_model_abstain_has_fooled_it(
    context: Context, crafted: Crafted, pixels: Tensor
) -> None:
    class Silent(Voting):
        """Never sure."""

        kind: str = "silent"  # type: ignore[assignment]
        standard_deviation_255ths: float = 1.0

        def abstains(self, probabilities: Tensor, draws: int) -> Tensor:
            return torch.ones_like(probabilities[..., 0], dtype=torch.bool)

    stored = (pixels * 255).round().to(torch.uint8)
    images = Images(stored, crafted.labels, crafted.ids, CLASSES)
    shard = Shard(start=0, stop=COUNT)
    spec = SelectSpec(against=Silent(), shard=shard, seed=0, draws=4, predictions=4)
    chosen = select({"clean": crafted}, images, context, spec, batch_size=100)
    torch.testing.assert_close(chosen.failures, torch.full((COUNT, 1), 0.5))


def test_a_defense_acts_where_its_answer_is_not_the_bare_models(
    context: Context, crafted: Crafted
) -> None:
    bare = context.classifier.logits(crafted.pixels).argmax(dim=1)
    spec = FlipCrop(draws=1, padding=0.5)
    outcomes = asked(spec, crafted, context)
    before = context.classifier.passes
    found = acted(crafted, context, outcomes, batch_size=4)
    assert context.classifier.passes == before
    assert found == int((outcomes.predicted != bare[:, None]).sum())
    assert found
    assert acted(crafted, context, asked(NoDefense(), crafted, context), batch_size=4) == 0
    silent_too = asked(Voting(), crafted, context)
    assert silent_too.abstained is not None
    expected = (silent_too.predicted != bare[:, None]) | silent_too.abstained
    assert acted(crafted, context, silent_too, batch_size=4) == int(expected.sum())


def test_an_attackers_question_costs_all_views() -> None:
    chain = Chain(parts=(Gaussian(draws=1), Mirrored()))
    assert query_passes(Mirrored(), CLASSES, 5) == Passes(forwards=2)
    assert query_passes(chain, CLASSES, 5) == Passes(forwards=10)
