from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tasks.attacks.apgd import APGD
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.base import Attack, Victim
from tasks.attacks.clean import Clean
from tasks.attacks.fgsm import FGSM
from tasks.attacks.foolbox import FoolboxAttack
from tasks.attacks.pgd import PGD
from tasks.attacks.square import Square
from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.data.arrays import BadTensor, Images, as_float, as_float_on
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.defenses.base import Context
from tasks.defenses.gaussian import Gaussian
from tasks.evaluation.craft import check_crafted, craft
from tasks.evaluation.specs import CraftSpec
from tasks.specs import Problem, Shard

PROBLEM = Problem(epsilon=8.0, classes=10, side=8, pool=100)
SHARD = Shard(start=4, stop=16)


@pytest.fixture(scope="module")
def images() -> Images:
    return digits().test[SHARD.start : SHARD.stop]


@pytest.fixture
def frozen() -> Frozen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 10)
        )
    return Frozen(network, classes=10)


def spec_of(attack: Attack, *, seed: int = 0) -> CraftSpec:
    return CraftSpec(attack=attack.resolved(PROBLEM), shard=SHARD, seed=seed, precision="float32")


def test_examples_keep_ids_and_labels_and_pass_the_check(images, frozen):
    for attack in (
        PGD(),
        PGD(targeted=True),
        PGD(norm="l2", epsilon=128.0),
        FGSM(targeted=True),
        Clean(),
    ):
        crafted = craft(images, Context(frozen), spec_of(attack), batch_size=5)

        assert torch.equal(crafted.ids, images.ids)
        assert torch.equal(crafted.labels, images.labels)
        check_crafted(crafted, images, spec_of(attack))


def test_examples_follow_their_ids_through_any_batch_size(images, frozen):
    # A step of size zero leaves every image at its random start, free of a network's rounding.
    spec = spec_of(PGD(step_size=0, targeted=True, steps=1))

    whole = craft(images, Context(frozen), spec, batch_size=12)

    for batch_size in (1, 5, 500):
        parts = craft(images, Context(frozen), spec, batch_size=batch_size)
        assert torch.equal(parts.pixels, whole.pixels)
        assert torch.equal(parts.targets, whole.targets)


def test_the_batch_size_changes_few_pixels_and_the_same_one_none(images, frozen):
    whole = craft(images, Context(frozen), spec_of(PGD()), batch_size=12)
    again = craft(images, Context(frozen), spec_of(PGD()), batch_size=12)
    parts = craft(images, Context(frozen), spec_of(PGD()), batch_size=5)

    assert torch.equal(again.pixels, whole.pixels)
    assert ((parts.pixels - whole.pixels).abs() < 1e-6).float().mean() > 0.999


def test_another_shard_gets_other_starts_and_the_seed_decides_them(images, frozen):
    spec = spec_of(PGD(step_size=0, epsilon=255, steps=1))
    same = Images(images.pixels[:1].expand(12, -1, -1, -1), images.labels, images.ids, 10)

    crafted = craft(same, Context(frozen), spec, batch_size=12).pixels
    other = craft(same, Context(frozen), spec.model_copy(update={"seed": 1}), batch_size=12).pixels

    assert len(crafted.flatten(1).unique(dim=0)) == 12
    assert (crafted != other).flatten(1).any(dim=1).all()


def test_targets_do_not_depend_on_the_number_of_steps_or_the_attack(images, frozen):
    crafted = [
        craft(images, Context(frozen), spec_of(attack), batch_size=12).targets
        for attack in (
            PGD(targeted=True, steps=1),
            PGD(targeted=True, steps=3),
            FGSM(targeted=True),
        )
    ]

    assert torch.equal(crafted[0], crafted[1])
    assert torch.equal(crafted[0], crafted[2])


def test_an_untargeted_attack_and_no_attack_have_no_targets(images, frozen):
    for attack in (PGD(steps=1), Clean()):
        crafted = craft(images, Context(frozen), spec_of(attack), batch_size=12)
        assert crafted.targets.tolist() == [-1] * 12


def test_no_attack_gives_the_data_sets_pixels(images, frozen):
    crafted = craft(images, Context(frozen), spec_of(Clean()), batch_size=12)

    assert torch.equal(crafted.pixels, as_float(images.pixels))
    assert frozen.forwards == 0


def test_forwards_and_backwards_are_counted_in_images(images, frozen):
    craft(images, Context(frozen), spec_of(PGD(steps=3)), batch_size=5)
    assert (frozen.forwards, frozen.backwards) == (36, 36)

    craft(images, Context(frozen), spec_of(PGD(steps=1, label="predicted")), batch_size=5)
    assert (frozen.forwards, frozen.backwards) == (36 + 24, 36 + 12)


def test_an_attack_that_cannot_begin_at_a_given_point_says_so(images, frozen):
    start = craft(images, Context(frozen), spec_of(Clean()), batch_size=12)
    with pytest.raises(NotImplementedError, match="PGD cannot begin at a given point"):
        craft(images, Context(frozen), spec_of(PGD(steps=1)), batch_size=12, start=start)


def test_an_attack_that_begins_at_a_given_point_is_given_those_of_its_batch(images, frozen):
    start = craft(images, Context(frozen), spec_of(PGD(steps=2)), batch_size=12)
    spec = spec_of(APGD(steps=1, random_start=False))
    begun = craft(images, Context(frozen), spec, batch_size=5, start=start)
    expected = spec.attack.perturb_from(
        Victim(lambda pixels, _: frozen.logits(pixels), frozen.classes),
        as_float_on(images.pixels, "cpu"),
        images.labels,
        Rows(spec.seed, images.ids, torch.zeros_like(images.ids)).within("attack"),
        start=start.pixels,
    )
    assert torch.equal(begun.pixels, expected)
    assert not torch.equal(begun.pixels, craft(images, Context(frozen), spec, batch_size=5).pixels)


def test_progress_is_told_at_each_step_of_each_batch(images, frozen):
    told = []

    craft(images, Context(frozen), spec_of(PGD(steps=2)), batch_size=8, tell=told.append)

    assert {progress.total for progress in told} == {12}
    # after the two steps of each batch, and after the batch
    assert [progress.done for progress in told] == [4, 8, 8, 10, 12, 12]


@pytest.mark.parametrize("attack", [APGD(steps=6), APGDT(steps=4, ranks=(1, 2)), Square(queries=9)])
def test_the_progress_of_a_batch_rises_to_its_end_and_never_falls(images, frozen, attack):
    told = []
    spec = spec_of(attack.model_copy(update={"epsilon": 0.5}))
    made = spec.model_copy(update={"against": Gaussian(draws=2), "draws": 2})

    craft(images, Context(frozen), made, batch_size=500, tell=told.append)

    shares = [progress.done / progress.total for progress in told]
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1


def test_images_of_another_shard_are_refused(images, frozen):
    with pytest.raises(BadTensor, match="places 4 to 15"):
        craft(images[:11], Context(frozen), spec_of(PGD()), batch_size=5)


def test_a_classifier_in_another_precision_is_refused(images, frozen):
    spec = spec_of(PGD()).model_copy(update={"precision": "bfloat16"})

    with pytest.raises(BadTensor, match="bfloat16"):
        craft(images, Context(frozen), spec, batch_size=5)


def test_a_classifier_that_an_attack_changed_is_noticed(images, frozen):
    class Vandal(Clean):
        def perturb(self, *batch):
            frozen.module[3].weight.data += 1
            return super().perturb(*batch)

    with pytest.raises(NotFrozen, match="weights"):
        craft(images, Context(frozen), spec_of(Vandal()), batch_size=12)


def test_a_check_finds_what_was_changed_since(images, frozen):
    spec = spec_of(PGD(targeted=True, steps=1))
    good = craft(images, Context(frozen), spec, batch_size=12)
    far = good.pixels.clone()
    far[3] = as_float(images.pixels)[3] * 0.9 + 0.05
    aimed_at_truth = good.targets.clone()
    aimed_at_truth[0] = good.labels[0]
    wrong = {
        "ids": replace(good, ids=good.ids.flip(0)),
        "labels": replace(good, labels=good.labels.roll(1)),
        "expected \\(12, 1, 8, 8\\)": replace(good, pixels=good.pixels[:, :, 1:]),
        "1 of 12 images are farther than 8/255": replace(good, pixels=far),
        "true label": replace(good, targets=aimed_at_truth),
        "under its seed": replace(good, targets=torch.full_like(good.targets, -1)),
    }

    check_crafted(good, images, spec)
    for message, crafted in wrong.items():
        with pytest.raises(BadTensor, match=message):
            check_crafted(crafted, images, spec)


def test_pixels_outside_the_range_cannot_even_be_loaded(images, frozen):
    good = craft(images, Context(frozen), spec_of(Clean()), batch_size=12)

    for value in (1.001, -0.001, torch.nan):
        pixels = good.pixels.clone()
        pixels[0, 0, 0, 0] = value
        with pytest.raises(BadTensor):
            replace(good, pixels=pixels)


def test_a_craft_spec_shows_every_parameter_of_its_attack():
    shown = spec_of(PGD(steps=50)).model_dump()

    assert shown["attack"]["steps"] == 50
    assert shown["attack"]["epsilon"] == 8.0
    assert shown["attack"]["step_size"] == 2.0


def test_a_craft_spec_refuses_what_it_does_not_know():
    with pytest.raises(ValidationError):
        CraftSpec(attack=Clean(), shard=SHARD, seed=0, precision="float32", batch_size=3)


@pytest.mark.parametrize(("at_once", "told"), [(1, 12), (5, 3)])
def test_a_librarys_attack_tells_how_far_it_is_and_makes_the_same(images, frozen, at_once, told):
    pytest.importorskip("foolbox")
    spec = spec_of(FoolboxAttack(attack="LinfPGD", images_at_once=at_once))
    notes = []
    crafted = craft(images, Context(frozen), spec, batch_size=500, tell=notes.append)
    assert [note.done for note in notes] == sorted({min(12, at_once * (n + 1)) for n in range(12)})
    assert len(notes) == told
    rows = Rows(0, images.ids, torch.zeros_like(images.ids)).within("attack")
    victim = Victim(lambda pixels, _: frozen.logits(pixels, rows), classes=10)
    whole = spec.attack.perturb(victim, as_float(images.pixels), images.labels, rows)
    assert torch.equal(crafted.pixels, whole)
