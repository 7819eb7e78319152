"""A defended model as a victim: `tasks.evaluation.victim` and `select`, the compound attack."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tasks.attacks.adaptive import Adaptive, Climbs
from tasks.attacks.apgd import APGD
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.pgd import PGD
from tasks.attacks.square import Square
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor, Crafted, Images, as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.defenses.base import Context, Defense, GradientRule
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.hedge import Hedge
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.none import NoDefense
from tasks.defenses.smooth import Smooth
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.costs import craft_passes, select_passes
from tasks.evaluation.craft import craft
from tasks.evaluation.select import select
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.evaluation.stages import BadDefense
from tasks.evaluation.victim import defended
from tasks.specs import Problem, Shard

PROBLEM = Problem(epsilon=20, classes=10, side=8, pool=1197)
SHARD = Shard(start=0, stop=60)
DEFENSES = [
    NoDefense(),
    Counter(),
    Counter(label_count=3),
    Guo(draws=4),
    Gaussian(draws=4),
    MixupInference(draws=4),
    Chain(parts=(Counter(label_count=3), Guo(draws=4))),
    Chain(parts=(Counter(), Gaussian(draws=4))),
]
every_defense = pytest.mark.parametrize(
    "defense", [each.resolved(PROBLEM) for each in DEFENSES], ids=lambda each: repr(each)[:60]
)


@pytest.fixture(scope="module")
def images() -> Images:
    return digits().test[SHARD.start : SHARD.stop]


@pytest.fixture
def context(network) -> Context:
    return Context(Frozen(network, classes=10), pool=digits().train)


def rows_of(images: Images) -> Rows:
    return Rows(0, images.ids, torch.zeros_like(images.ids))


def spec_of(defense: Defense | None, **changes) -> CraftSpec:
    attack = changes.pop("attack", APGD(loss="margin", steps=10, random_start=False))
    known = {} if defense is None else {"against": defense, "draws": changes.pop("draws", 3)}
    return CraftSpec(
        attack=attack.resolved(PROBLEM),
        shard=SHARD,
        seed=0,
        precision="float32",
        **known,
        **changes,
    )


class Misled(Defense):
    """Two views: the answer is that to the image, and the surrogate that to a coarse copy."""

    def deterministic(self, classes: int) -> bool:
        return True

    def views(self, classes: int) -> int:
        return 2

    def gradients(self) -> tuple[GradientRule, ...]:
        return ("surrogate",)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        coarse = nn.functional.avg_pool2d(pixels, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        return torch.stack((pixels, coarse), dim=1).flatten(0, 1)

    def combine(self, logits: Tensor) -> Tensor:
        return logits[..., 0, :].log_softmax(dim=-1)

    def surrogate(self, logits: Tensor) -> Tensor:
        return logits[..., 1, :].log_softmax(dim=-1)


# The victim


def test_cross_entropy_of_the_log_mean_is_minus_the_log_of_the_mean_probability():
    logits = torch.randn(5, 4, 10, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(5)
    loss = nn.functional.cross_entropy(log_mean(logits), labels, reduction="none")
    probability = logits.softmax(2).mean(1)[torch.arange(5), labels]
    torch.testing.assert_close(loss, -probability.log())


@pytest.mark.parametrize("attack", [APGD(steps=10), PGD(steps=5), Square(queries=20)], ids=repr)
def test_with_defense_none_expectation_over_transformation_changes_nothing_bit_for_bit(
    attack, images, context
):
    bare = craft(images, context, spec_of(None, attack=attack), batch_size=500)
    known = craft(
        images, context, spec_of(NoDefense(), attack=attack, draws=20), batch_size=500 * 20
    )
    assert torch.equal(bare.pixels, known.pixels)


def test_each_step_draws_afresh_and_a_window_judges_by_the_same_draws(images, context):
    victim = defended(Guo(draws=4), context, rows_of(images), draws=3)
    pixels = as_float(images.pixels)
    assert victim.judged is not None
    assert not torch.equal(victim.logits(pixels, 0), victim.logits(pixels, 1))
    assert torch.equal(victim.logits(pixels, 1), victim.logits(pixels, 1))
    assert torch.equal(victim.judged(pixels, 0), victim.judged(pixels, 0))
    assert not torch.equal(victim.judged(pixels, 0), victim.judged(pixels, 1))
    assert not torch.equal(victim.judged(pixels, 0), victim.logits(pixels, 0))


def test_points_with_equal_votes_are_compared_by_the_surrogate(images, context):
    smooth = Smooth(draws=4, standard_deviation_255ths=8.0)
    victim = defended(smooth, context, rows_of(images), draws=3)
    assert victim.judged is not None
    pixels, labels = as_float(images.pixels), images.labels
    moved = (pixels + 0.01 * pixels.roll(1, dims=0)).clamp(max=1.0)
    answers = [victim.judged(points, 0) for points in (pixels, moved)]
    votes = [answer.argmax(dim=1) for answer in answers]
    same = (votes[0] == labels) & (votes[1] == labels) & (answers[0].amin(dim=1) < -80)
    assert same.sum() > 40  # all votes are for the true class, before and after
    for answer in answers:
        assert torch.equal(answer.argmax(dim=1)[same], labels[same])
    assert (answers[0] != answers[1]).any(dim=1)[same].all()


def test_an_attack_on_votes_leaves_no_image_where_it_was(images, context):
    spec = spec_of(Smooth(draws=4, standard_deviation_255ths=8.0), draws=3)
    found = craft(images, context, spec, batch_size=10_000)
    moved = (found.pixels - as_float(images.pixels)).abs().amax(dim=(1, 2, 3))
    assert (moved > 0).all()


def test_square_queries_the_defense_and_not_its_surrogate(images, context, network):
    spec = spec_of(Misled(), attack=Square(queries=100), draws=1)
    found = craft(images, context, spec, batch_size=10_000)
    bare = craft(images, context, spec_of(None, attack=Square(queries=100)), batch_size=10_000)
    right = [
        (network(pixels).argmax(dim=1) == images.labels).sum().item()
        for pixels in (found.pixels, bare.pixels)
    ]
    # the answer is the bare network's, and so is what the attack leaves
    assert right[0] == right[1] < 0.8 * len(images)


def test_a_defense_with_nothing_to_draw_is_asked_once_and_needs_no_judge(images, context):
    counter = Counter().resolved(PROBLEM)
    before = context.classifier.forwards
    victim = defended(counter, context, rows_of(images), draws=20)
    victim.logits(as_float(images.pixels), 0)
    assert victim.judged is None
    # the pass of the gradients and of the predicted class, and the answer
    assert context.classifier.forwards - before == 2 * len(images)


def test_draws_of_a_defense_that_only_draws_once_a_prediction_differ_in_all_they_draw(
    images, context
):
    counter = Counter(label_count=2).resolved(PROBLEM)
    single = defended(counter, context, rows_of(images), draws=1).logits(as_float(images.pixels), 0)
    many = defended(counter, context, rows_of(images), draws=8).logits(as_float(images.pixels), 0)
    assert not torch.allclose(single.softmax(1), many.softmax(1), atol=1e-3)


def test_of_a_model_that_draws_nothing_some_of_its_images_may_be_asked_about(images, context):
    """Libraries ask about those alone that still stand."""
    counter = Counter().resolved(PROBLEM)
    victim = defended(counter, context, rows_of(images), draws=1)
    pixels = as_float(images.pixels)
    whole = victim.logits(pixels, 0)
    torch.testing.assert_close(victim.logits(pixels[7:20], 3), whole[7:20])


def test_the_victim_of_some_images_draws_for_those_images(images, context):
    victim = defended(Guo(draws=4), context, rows_of(images), draws=3)
    pixels, places = as_float(images.pixels), torch.tensor([4, 30, 31])
    part = victim.of(places)
    assert part.judged is not None
    torch.testing.assert_close(part.logits(pixels[places], 2), victim.logits(pixels, 2)[places])
    torch.testing.assert_close(part.judged(pixels[places], 1), victim.judged(pixels, 1)[places])


class Detached(Defense):
    """A defense that lets no gradient through."""

    kind: str = "detached"

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        return pixels.detach().clone()


def test_a_defense_that_detaches_its_input_is_named_in_one_line(images, context):
    with pytest.raises(BadDefense, match=r"^detached: its transform lets no gradient through"):
        craft(images, context, spec_of(Detached()), batch_size=500)


def test_smoothing_gives_the_counter_perturbation_a_gradient_of_its_own(images, context):
    counter = Counter().resolved(PROBLEM)
    pixels = as_float(images.pixels[:8])
    gradients = []
    for smoothing in (None, 0.5):
        leaf = pixels.clone().requires_grad_()
        victim = defended(counter, context, rows_of(images[:8]), draws=1, smoothing=smoothing)
        gradients.append(torch.autograd.grad(victim.logits(leaf, 0)[:, 0].sum(), leaf)[0])
    assert not torch.allclose(gradients[0], gradients[1])


def test_the_smoothed_gradient_is_that_of_finite_differences(network, images):
    context = Context(Frozen(copy.deepcopy(network).double(), classes=10))
    counter = Counter(labels=(1, 2), label_pool="not-predicted").resolved(PROBLEM)
    context = replace(context, smoothing=2.0)
    pixels = as_float(images.pixels[:1]).double().clamp(0.2, 0.8).requires_grad_()
    # tau is held constant, so the difference is taken at a fixed one
    change = counter.perturbation(pixels, rows_of(images[:1]), context)
    (gradient,) = torch.autograd.grad(change.square().sum(), pixels)
    assert gradient.abs().sum() > 0
    assert torch.isfinite(gradient).all()


# Crafting on a defended model


@every_defense
def test_an_image_gets_the_same_adaptive_example_in_any_batch(defense, images, context):
    spec = spec_of(defense, attack=APGD(loss="margin", steps=3, random_start=False))
    whole = craft(images, context, spec, batch_size=10_000)
    parts = craft(images, context, spec, batch_size=51)
    close = (whole.pixels - parts.pixels).abs().flatten(1).amax(1) < 1e-4
    # a sum in another order can flip a sign, and with it a step
    assert close.float().mean() > 0.9


@every_defense
def test_an_adaptive_attack_fools_more_than_replayed_examples(defense, images, context):
    attack = APGD(loss="margin", steps=20, random_start=False)
    bare = craft(images, context, spec_of(None, attack=attack), batch_size=500)
    known = craft(images, context, spec_of(defense, attack=attack, draws=10), batch_size=5000)
    chosen = select(
        {"bare": bare, "known": known},
        images,
        context,
        SelectSpec(against=defense, shard=SHARD, seed=0, draws=20),
        batch_size=5000,
    )
    failed = chosen.failures.mean(dim=0)
    assert failed[1] >= failed[0]


def test_a_start_is_where_the_climb_begins(images, context):
    spec = spec_of(NoDefense(), attack=APGD(loss="margin", steps=1, epsilon=0.0))
    pixels = as_float(images.pixels)
    none = torch.full_like(images.labels, -1)
    start = Crafted(pixels, images.labels, images.ids, none)
    assert torch.equal(craft(images, context, spec, start=start, batch_size=500).pixels, pixels)
    other = replace(start, ids=images.ids + 1)
    with pytest.raises(BadTensor, match="the start is not of the shard's images"):
        craft(images, context, spec, start=other, batch_size=500)


@pytest.mark.parametrize(
    ("defense", "smoothing"),
    [
        (defense, smoothing)
        for defense in (each.resolved(PROBLEM) for each in DEFENSES)
        for smoothing in (None, *((1.0,) if defense.smooths() else ()))
    ],
    ids=lambda each: repr(each)[:60],
)
def test_the_declared_passes_are_those_that_are_taken(defense, smoothing, images, context):
    spec = spec_of(defense, smoothing=smoothing)
    classifier = context.classifier
    classifier.forwards = classifier.backwards = 0
    craft(images, context, spec, batch_size=10_000)
    declared = craft_passes(spec, 10)
    assert classifier.forwards / len(images) == pytest.approx(declared.forwards, rel=0.15)
    if smoothing is None:
        assert classifier.backwards / len(images) == pytest.approx(declared.backwards, rel=0.02)


def test_a_search_without_gradients_takes_the_passes_that_it_declares_on_votes(images, context):
    spec = spec_of(Smooth(draws=4), attack=Square(queries=10))
    craft(images, context, spec, batch_size=10_000)
    assert context.classifier.forwards == craft_passes(spec, 10).forwards * len(images)


@pytest.mark.parametrize("defense", [NoDefense(), Guo(draws=4)], ids=lambda each: each.kind)
def test_a_climb_to_one_target_takes_the_passes_that_it_declares(defense, images, context):
    spec = spec_of(defense, attack=APGDT(ranks=(2,), steps=6))
    classifier = context.classifier
    classifier.forwards = classifier.backwards = 0
    craft(images, context, spec, batch_size=10_000)
    declared = craft_passes(spec, 10)
    assert classifier.forwards / len(images) == pytest.approx(declared.forwards, rel=0.15)
    assert classifier.backwards == declared.backwards * len(images)


WAYS = [
    {},
    {"inner_steps": 2},
    {"rule": "iterates"},
    {"rule": "iterates", "inner_steps": 2},
    {"smoothing": 1.0, "inner_steps": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_each_way_through_an_inner_optimiser_takes_the_passes_that_it_declares(
    way, images, context
):
    attack = APGD(loss="margin", steps=6, random_start=False)
    hedge = Hedge(steps=6).resolved(PROBLEM)
    spec = spec_of(hedge, attack=attack, **way)
    classifier = context.classifier
    classifier.forwards = classifier.backwards = 0
    craft(images[:20], context, spec, batch_size=10_000)
    declared = craft_passes(spec, 10)
    assert classifier.forwards / 20 == pytest.approx(declared.forwards, rel=0.15)
    if "smoothing" not in way:
        assert classifier.backwards / 20 == pytest.approx(declared.backwards, rel=0.15)


@pytest.mark.parametrize("way", WAYS[1:], ids=repr)
def test_each_way_gives_a_gradient_of_its_own_and_is_judged_by_the_whole(way, images, context):
    pixels, hedge = as_float(images.pixels[:8]), Hedge(steps=6).resolved(PROBLEM)
    rows = rows_of(images[:8])
    whole = defended(hedge, context, rows, draws=1)
    other = defended(hedge, context, rows, draws=1, **way)
    assert whole.judged is None
    assert other.judged is not None
    torch.testing.assert_close(other.judged(pixels, 0), whole.logits(pixels, 0))
    gradients = []
    for victim in (whole, other):
        leaf = pixels.clone().requires_grad_()
        gradients.append(torch.autograd.grad(victim.logits(leaf, 0)[:, 0].sum(), leaf)[0])
    assert not torch.allclose(gradients[0], gradients[1])


def test_how_a_gradient_passes_belongs_to_a_defense():
    with pytest.raises(ValueError, match="how gradients pass, belong to the defense"):
        spec_of(None, rule="iterates")
    with pytest.raises(ValueError, match="how gradients pass, belong to the defense"):
        spec_of(None, inner_steps=5)


# Selection


def crafted_of(images: Images, pixels: Tensor) -> Crafted:
    none = torch.full_like(images.labels, -1)
    return Crafted(pixels, images.labels, images.ids, none)


def test_of_each_image_the_candidate_that_fails_most_is_selected(images, context):
    clean = crafted_of(images, as_float(images.pixels))
    bad = craft(images, context, spec_of(None), batch_size=500)
    half = replace(clean, pixels=torch.cat((bad.pixels[:30], clean.pixels[30:])))
    spec = SelectSpec(against=NoDefense(), shard=SHARD, seed=0)
    chosen = select({"clean": clean, "half": half}, images, context, spec, batch_size=500)
    right = chosen.failures[:, 0] == 0
    broken = chosen.failures[:, 1] == 1
    assert (chosen.choice[right & broken] == 1).all()
    assert (right & broken)[:30].sum() > 5
    rate = chosen.failures.gather(1, chosen.choice[:, None])[:, 0]
    assert torch.equal(rate, chosen.failures.amax(dim=1))


def test_a_candidate_of_the_first_images_alone_competes_for_those(images, context):
    clean = crafted_of(images, as_float(images.pixels))
    bad = craft(images, context, spec_of(None), batch_size=500)
    few = crafted_of(images[:10], bad.pixels[:10])
    spec = SelectSpec(against=Guo(draws=4), shard=SHARD, seed=0, draws=4)
    chosen = select({"clean": clean, "few": few}, images, context, spec, batch_size=500)
    assert (chosen.choice[10:] == 0).all()
    assert (chosen.choice[:10] == 1).any()
    assert chosen.failures[10:, 1].isnan().all()
    assert torch.equal(chosen.crafted.pixels[10:], clean.pixels[10:])
    with pytest.raises(BadTensor, match="no candidate has all"):
        select({"few": few}, images, context, spec, batch_size=500)


@every_defense
def test_selection_declares_its_passes_and_does_not_depend_on_the_batch(defense, images, context):
    clean = crafted_of(images, as_float(images.pixels))
    spec = SelectSpec(against=defense, shard=SHARD, seed=0, draws=6)
    classifier = context.classifier
    classifier.forwards = classifier.backwards = 0
    whole = select({"clean": clean}, images, context, spec, batch_size=10_000)
    declared = select_passes(spec, 10)
    assert classifier.backwards == declared.backwards * len(images)
    assert classifier.forwards / len(images) == pytest.approx(declared.forwards, rel=0.15)
    parts = select({"clean": clean}, images, context, spec, batch_size=50)
    torch.testing.assert_close(whole.failures, parts.failures)


# The compound attack


def test_a_budget_tries_every_loss_from_every_start_and_smooths_where_there_is_a_sign():
    attack = Adaptive(
        losses=("cross-entropy", "margin"), random_starts=2, smoothing=1.0, square_queries=50
    ).resolved(PROBLEM)
    plain = [attempt.name for attempt in attack.tries(Guo())]
    both = [attempt.name for attempt in attack.tries(Chain(parts=(Counter(), Guo())))]
    assert plain == [
        "cross-entropy-image-20x5",
        "cross-entropy-transferred-20x5",
        "cross-entropy-random2-20x5",
        "margin-image-20x5",
        "margin-transferred-20x5",
        "margin-random2-20x5",
        "square-50x20",
    ]
    assert len(both) == 13
    assert all(inner.epsilon == 20 for inner in attack.transferred)
    assert [attempt.attack.restarts for attempt in attack.tries(Guo())[:3]] == [1, 1, 2]


def test_targets_are_candidates_each_and_no_more_than_there_are_wrong_classes():
    attack = Adaptive(target_classes=9, cheaper=(Climbs(target_classes=2, steps=5),))
    found = [attempt.name for attempt in attack.resolved(PROBLEM).tries(Guo())]
    assert found == [
        "margin-image-5x5",
        "margin-transferred-5x5",
        "dlr-target1-5x5",
        "dlr-target2-5x5",
        "margin-image-20x5",
        "margin-transferred-20x5",
        *(f"dlr-target{rank}-20x5" for rank in range(1, 10)),
    ]
    for classes, targets in ((5, 4), (3, 0)):
        few = Problem(epsilon=20, classes=classes, side=8, pool=100)
        names = [attempt.name for attempt in attack.resolved(few).tries(Guo())]
        assert sum("-20x5" in name and "target" in name for name in names) == targets


def test_margins_beyond_the_confidence_are_not_pursued(network, images):
    """Of two margin attacks the more confident one ends further beyond the boundary."""
    context = Context(Frozen(network, classes=10))
    ends = []
    for confidence in (0.0, 10.0):
        attack = PGD(steps=20, loss="margin", confidence=confidence)
        found = craft(images, context, spec_of(None, attack=attack), batch_size=500)
        logits = context.classifier.logits(found.pixels)
        own = nn.functional.one_hot(images.labels, 10).bool()
        ends.append(logits.masked_fill(own, -math.inf).amax(1) - logits[own])
    both = (ends[0] > 0) & (ends[1] > 0)
    assert both.sum() > 10
    assert ends[1][both].mean() > ends[0][both].mean()
