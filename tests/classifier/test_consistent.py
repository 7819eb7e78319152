"""A network answers an image by that image alone, or is refused."""

from __future__ import annotations

import pytest
import torch
from strange_networks import make, with_statistics
from torch import Tensor, nn

from tasks.classifier.consistent import check_consistent
from tasks.classifier.frozen import Frozen
from tasks.classifier.prepared import probe_images
from tasks.classifier.problems import BadNetwork

BY_CHANCE = ["DropoutThatStaysOn", "MonteCarlo", "Noisy", "Counting", "Remembering"]
BY_BATCH = ["norm_without_statistics", "NormInTrainMode", "BatchCentred", "FirstImageForAll"]


@pytest.fixture
def probe() -> Tensor:
    return probe_images(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)))


def given(name: str) -> nn.Module:
    torch.manual_seed(1)
    return with_statistics(make(name))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "dropout", "group_norm", "Probabilities", "Autocast"])
@pytest.mark.filterwarnings("ignore:bfloat16 takes tens of times:RuntimeWarning")
def test_rounding_is_no_inconsistency(probe, name, precision):
    frozen = Frozen(given(name), classes=10, precision=precision)
    check_consistent(frozen.answers, probe, precision)


@pytest.mark.parametrize("name", BY_CHANCE)
def test_a_network_that_answers_equal_batches_differently_is_refused_or_declared(probe, name):
    module = given(name)
    with pytest.raises(BadNetwork, match=r"answers the same 8 images differently each time, by up"):
        check_consistent(module, probe, "float32")
    check_consistent(module, probe, "float32", randomised=True)


def test_a_network_that_counts_its_calls_is_told_of_state_beside_draws(probe):
    calls = []

    def counting(pixels: Tensor) -> Tensor:
        calls.append(1)
        return pixels.flatten(1)[:, :10] + len(calls)

    with pytest.raises(BadNetwork, match=r"keeps state between calls, .*, or draws in eval mode"):
        check_consistent(counting, probe, "float32")


@pytest.mark.parametrize("name", BY_BATCH)
@pytest.mark.parametrize("randomised", [False, True])
def test_a_network_that_depends_on_the_batch_is_refused_however_it_is_declared(
    probe, name, randomised
):
    with pytest.raises(BadNetwork, match=r"in a batch of 8 differently than alone, by up to .* %"):
        check_consistent(given(name), probe, "float32", randomised=randomised)


def test_the_least_difference_that_is_refused_is_a_thousandth_of_the_largest_logit(probe):
    def shifted(share: float):
        def logits(pixels: Tensor) -> Tensor:
            answers = pixels.flatten(1)[:, :10] + 1.0
            return answers * (1 + share * (len(pixels) > 1))

        return logits

    check_consistent(shifted(0.0009), probe, "float32")
    with pytest.raises(BadNetwork, match=r"by up to 0\.1.? %"):
        check_consistent(shifted(0.0012), probe, "float32")
    check_consistent(shifted(0.029), probe, "bfloat16")
    with pytest.raises(BadNetwork, match="than alone"):
        check_consistent(shifted(0.04), probe, "bfloat16")


def test_one_changed_bit_between_equal_batches_is_refused(probe):
    calls = []

    def logits(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        answers = pixels.flatten(1)[:, :10] + 1.0
        if len(calls) == 2:
            answers[0, 0] = torch.nextafter(answers[0, 0], torch.tensor(2.0))
        return answers

    with pytest.raises(BadNetwork, match="differently each time"):
        check_consistent(logits, probe, "float32")


def test_what_takes_no_single_image_is_refused(probe):
    def logits(pixels: Tensor) -> Tensor:
        return pixels.squeeze()[:, 0, :]

    with pytest.raises(BadNetwork, match="does not take an image alone: IndexError"):
        check_consistent(logits, probe, "float32")


def test_zero_and_endless_logits_are_consistent(probe):
    check_consistent(lambda pixels: torch.zeros(len(pixels), 10), probe, "float32")
    check_consistent(lambda pixels: torch.full((len(pixels), 10), torch.nan), probe, "float32")


def test_the_generator_is_left_as_it_was(probe):
    state = torch.random.get_rng_state()
    check_consistent(given("Noisy"), probe, "float32", randomised=True)
    assert torch.equal(torch.random.get_rng_state(), state)
