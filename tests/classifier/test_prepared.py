"""A network made ready: the same function as given, and what would change it left out and named."""

from __future__ import annotations

import pytest
import torch
from our_kinds import our_kinds
from strange_networks import Net, make, with_statistics
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.classifier.fold import fold_batch_norm
from tasks.classifier.frozen import Frozen
from tasks.classifier.prepared import (
    Manner,
    ask,
    copied_network,
    difference,
    prepare,
    probe_images,
    relative,
    training_manner,
)
from tasks.classifier.problems import BadNetwork
from tasks.data.arrays import Images
from tasks.networks.base import Network
from tasks.networks.families.foreign import ForeignNetwork
from tasks.registry import kind_class
from tasks.specs import Problem
from tasks.training.recipe import InnerAttack, Recipe, TrainSpec
from tasks.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def given(name: str) -> nn.Module:
    torch.manual_seed(1)
    return with_statistics(make(name))


@pytest.fixture
def probe() -> Tensor:
    return probe_images(torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(2)))


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


def test_the_probe_is_some_real_images_and_some_random_ones_always_the_same():
    real = torch.rand(6, 3, 4, 4)
    first, again = probe_images(real), probe_images(real)
    assert torch.equal(first, again)
    assert torch.equal(first[:4], real[:4])
    assert first.shape == (8, 3, 4, 4)
    assert probe_images(real[:0]).shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("plain", 0),
        ("hook_on_a_convolution", 1),
        ("hook_on_a_norm", 1),
        ("hook_on_the_way_back", 1),
        ("pre_hook_on_a_convolution", 1),
        ("TiedWeights", 1),
        ("WeightUsedTwice", 1),
        ("WeightReadByItsNorm", 1),
        ("BiasOfANormReadElsewhere", 1),
        ("ConvolutionUsedTwice", 1),
        ("NormUsedTwice", 1),
        ("old_spectral_norm", 1),
        ("new_weight_norm", 1),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_only_the_pair_with_a_hook_or_a_shared_weight_stays_unfolded(probe, name, left):
    module = given(name)
    expected = ask(module, probe)
    prepared = prepare(module, CPU, probe)
    assert norms(prepared.module) == left
    assert prepared.manner == Manner()
    assert difference(expected, ask(prepared.module, probe, torch.channels_last)) == ""


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("WidthOfANormAskedFor", "num_features"),
        ("StatisticsOfANormReadElsewhere", "running_var"),
    ],
)
def test_a_norm_that_is_asked_about_itself_is_not_folded_and_the_line_says_why(probe, name, read):
    prepared = prepare(given(name), CPU, probe)
    assert not prepared.manner.folded
    assert prepared.manner.layout is torch.channels_last
    assert prepared.manner.left_out == (
        (
            "its batch norms are not folded: folded, it raises AttributeError: "
            f"'Identity' object has no attribute '{read}'"
        ),
    )


def test_a_hook_that_reads_a_folded_weight_is_found_by_the_comparison(probe):
    module = given("hook_that_knows_the_network")
    folded = copied_network(module)
    assert fold_batch_norm(folded) == 2, "a trace does not see what a hook reads"
    prepared = prepare(module, CPU, probe)
    assert difference(ask(module, probe), ask(prepared.module, probe, torch.channels_last)) == ""


@pytest.mark.parametrize("name", ["ViewAfterAConvolution", "MemoryReadAsItLies"])
def test_a_network_that_reads_memory_as_it_lies_is_not_laid_out_channels_last(probe, name):
    module = given(name)
    frozen = Frozen(module, classes=10, probe=probe)
    assert frozen.layout is torch.contiguous_format
    (line,) = frozen.left_out
    assert line.startswith("it is not laid out channels-last: so laid out, it ")
    torch.testing.assert_close(frozen.logits(probe), module(probe).detach())


@pytest.mark.parametrize("name", ["old_weight_norm", "pruned"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_deepcopy_refuses_is_copied_all_the_same(probe, name):
    module = given(name)
    # with a history, which a copy cannot have
    module.train()(probe)
    module.eval()
    prepared = prepare(module, CPU, probe)
    assert prepared.manner.copied
    expected = ask(module, probe)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    assert difference(expected, ask(prepared.module, probe, torch.channels_last)) == ""


def test_a_copy_that_still_runs_its_original_is_not_used(probe):
    module = given("forward_replaced").train()
    expected = ask(copied := given("forward_replaced"), probe)
    assert not copied.training
    before = {name: value.clone() for name, value in module.state_dict().items()}
    prepared = prepare(module, CPU, probe)
    assert prepared.module is module
    assert prepared.manner.left_out == (
        (
            "is used as it is, neither copied nor folded nor channels-last: "
            "copied, it still runs the network that it was copied from"
        ),
    )
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert difference(expected, ask(prepared.module, probe)) == ""


def test_a_network_that_cannot_be_copied_is_used_itself_locked_and_in_eval_mode(probe):
    class Single(Net):
        def __deepcopy__(self, memo):
            raise TypeError("there is one of me")

    module = with_statistics(Single()).train()
    prepared = prepare(module, CPU, probe)
    assert prepared.module is module
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())
    assert "copied, it raises TypeError: there is one of me" in prepared.manner.left_out[0]


def test_preparing_leaves_modes_weights_and_the_generator_as_they_were(probe):
    module = given("dropout").train()
    module.bn1.eval()
    modes = [child.training for child in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.random.get_rng_state()
    prepare(module, CPU, probe)
    assert [child.training for child in module.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["compiled", "compiled_in_part", "compiled_in_place"])
def test_what_a_factory_compiled_is_asked_uncompiled_and_keeps_its_normalisation(probe, name):
    class Made(ForeignNetwork):
        kind: str = "made"

        def module(self, channels, side, classes):
            return given(name)

    module = Made(mean=(0.3,), std=(0.2,)).build(1, 8, 10)
    torch.manual_seed(1)
    expected = given("plain")((probe - 0.3) / 0.2)
    frozen = Frozen(module, classes=10, probe=probe)
    torch.testing.assert_close(frozen.logits(probe), expected.detach(), atol=1e-4, rtol=1e-4)
    assert "Optimized" not in " ".join(type(each).__name__ for each in frozen.module.modules())


def test_a_networks_own_hook_comes_after_the_normalisation(probe):
    class Made(ForeignNetwork):
        kind: str = "made"

        def module(self, channels, side, classes):
            return given("pre_hook_on_the_network")

    module = Made(mean=(0.5,), std=(0.25,)).build(1, 8, 10).eval()
    expected = given("pre_hook_on_the_network")((probe - 0.5) / 0.25)
    torch.testing.assert_close(module(probe), expected)
    early = given("plain")((probe.clamp(min=-0.3) - 0.5) / 0.25)
    assert not torch.allclose(module(probe), early)


def test_a_difference_in_gradients_alone_is_a_difference(probe):
    plain, hooked = ask(given("plain"), probe), ask(given("hook_on_the_way_back"), probe)
    assert torch.equal(plain.logits, hooked.logits)
    assert difference(plain, hooked) == "it moves gradients by up to 2e+02 %"
    without = ask(given("WithoutAGradient"), probe)
    assert without.gradient is None
    assert difference(plain, without) == "it lets no gradient through"
    assert difference(plain, plain) == ""


def test_what_is_not_a_number_in_both_is_no_difference(probe):
    class Endless(Net):
        def forward(self, x):
            return super().forward(x).log() * torch.inf

    module = with_statistics(Endless())
    prepared = prepare(module, CPU, probe)
    assert prepared.manner.copied


def test_a_network_that_does_not_take_the_images_is_refused(probe):
    with pytest.raises(BadNetwork, match=r"does not take 8 images of 3x8x8: RuntimeError"):
        prepare(given("plain"), CPU, probe.expand(-1, 3, -1, -1))
    with pytest.raises(BadNetwork, match="gave tuple for 8 images of 1x8x8"):
        prepare(given("Tuple"), CPU, probe)


class Strange(Network):
    """One of the strange networks, to be trained."""

    kind: str = "strange"
    name: str

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        return make(self.name)


def trained_weights(name: str, manner: Manner, method: str = "mixup") -> dict[str, Tensor]:
    inner = InnerAttack(steps=1) if method != "mixup" else None
    recipe = Recipe(method=method, epochs=1, batch_size=32, inner=inner, crop_padding_px=1)
    problem = Problem(epsilon=8.0, classes=10, side=8, pool=64)
    spec = TrainSpec(network=Strange(name=name), recipe=recipe).resolved(problem)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(64) % 10, torch.arange(64), 10)
    (state,) = train(images, spec, manner=manner)
    return state.weights


@pytest.mark.parametrize("method", ["mixup", "adversarial"])
def test_a_network_that_reads_memory_as_it_lies_is_trained_in_the_usual_layout(probe, method):
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        trained_weights("ViewAfterAConvolution", Manner(), method)
    manner = training_manner(make("ViewAfterAConvolution"), probe)
    assert manner.layout is torch.contiguous_format
    assert "not laid out channels-last" in manner.left_out[0]
    weights = trained_weights("ViewAfterAConvolution", manner, method)
    plain = trained_weights("plain", Manner(layout=torch.contiguous_format), method)
    for key, value in weights.items():
        torch.testing.assert_close(value, plain[key], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adversarial_training_of_what_deepcopy_refuses(probe):
    manner = training_manner(make("old_weight_norm"), probe)
    assert manner.copied
    assert trained_weights("old_weight_norm", manner, "adversarial")


def test_adversarial_training_attacks_the_network_itself_where_a_copy_is_another(probe):
    module = make("forward_replaced")
    manner = training_manner(module, probe)
    assert not manner.copied
    assert trained_weights("forward_replaced", manner, "adversarial")


class GivenAHook(Strange):
    """Its hook reads a weight, which folding changes once a norm has statistics."""

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        module = make("plain")
        module.register_forward_hook(lambda net, _, out: out * net.conv1.weight.abs().mean())
        return module


def test_folding_for_attacks_is_compared_as_after_training_where_norms_have_statistics(probe):
    manner = training_manner(GivenAHook(name="").build(1, 8, 10), probe)
    assert not manner.folded
    assert "batch norms are not folded: folded, it moves logits by" in manner.left_out[0]
    for name in set(our_kinds("networks")) - {"resnet50-cifar"}:  # which is large
        module = kind_class("networks", name)(mean=(0.5,), std=(0.5,)).build(1, 8, 10)
        assert training_manner(module, probe) == Manner(), name


def test_weights_that_are_zero_before_training_hide_no_difference(probe):
    class ZeroHead(Net):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
            self.register_forward_hook(lambda net, _, out: out * net.conv1.weight.abs().mean())

    assert not training_manner(ZeroHead(), probe).folded


def test_a_view_that_only_training_meets_is_found_before_it(probe):
    class Auxiliary(Net):
        def head(self, x):
            extra = self.conv3(x).view(len(x), -1).mean() if self.training else 0.0
            return super().head(x) + extra

    manner = training_manner(Auxiliary(), probe)
    assert manner.layout is torch.contiguous_format
    assert "RuntimeError: view size is not compatible" in manner.left_out[0]


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
def test_a_network_with_auxiliary_outputs_in_training_is_refused_in_one_line(probe, layout):
    class Auxiliary(Net):
        def features(self, x):
            x = super().features(x)
            return x.view(len(x), -1).view(x.shape) if layout == "contiguous" else x

        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    line = r"in train mode gave tuple for 8 images of 1x8x8, not logits \[images, classes\]"
    with pytest.raises(BadNetwork, match=line):
        training_manner(Auxiliary(), probe)


def test_most_networks_are_trained_as_they_always_were(probe):
    for name in ("plain", "dropout", "norm_without_statistics"):
        assert training_manner(make(name), probe) == Manner()
    assert F.softmax(ask(make("plain"), probe).logits, dim=1).shape == (8, 10)


def test_an_infinite_answer_that_becomes_a_number_is_a_change_and_one_that_stays_is_none():
    of = torch.tensor([[torch.inf, 2.0], [torch.inf, 2.0], [torch.nan, 2.0], [4.0, 2.0]])
    other = torch.tensor([[7.0, 2.0], [torch.inf, 2.0], [torch.nan, 2.0], [3.0, 2.0]])
    found = relative(of - other, of, order=torch.inf)
    assert found.tolist() == [torch.inf, 0.0, 0.0, 0.25]
