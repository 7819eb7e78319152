"""What the last linear layer of a network takes, whatever was made of the network."""

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from strange_networks import VARIANTS, Net
from torch import Tensor, nn

from tasks.classifier import exported
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.frozen import Frozen
from tasks.classifier.problems import BadNetwork
from tasks.networks.modules.exported import ExportedNetwork
from tasks.networks.resnet20 import ResNet20
from tasks.networks.small import Small
from tasks.specs import Precision


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> Net:
    torch.manual_seed(1)
    made = Net().eval()
    for child in made.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean = torch.rand(child.num_features)
    return made


def expected(made: Net, pixels: Tensor) -> Tensor:
    return made.features(pixels).mean(dim=(2, 3)).detach()


@pytest.mark.parametrize("probed", [True, False], ids=["folded after a probe", "folded"])
def test_features_are_what_the_last_linear_layer_takes(pixels: Tensor, probed: bool) -> None:
    made = net()
    frozen = Frozen(made, classes=10, probe=pixels if probed else None)
    features, logits = frozen.features_and_logits(pixels)
    torch.testing.assert_close(features, expected(made, pixels))
    torch.testing.assert_close(features, frozen.features(pixels))
    torch.testing.assert_close(logits, frozen.logits(pixels))
    torch.testing.assert_close(features @ made.linear.weight.T + made.linear.bias, logits)


@pytest.mark.parametrize(
    ("network", "width"), [(Small(width=4), 16), (ResNet20(mean=(0.5,), std=(0.5,)), 64)]
)
def test_our_networks_have_features(network: Small, width: int, pixels: Tensor) -> None:
    frozen = Frozen(network.build(1, 8, 10), classes=10)
    features, logits = frozen.features_and_logits(pixels[:2])
    assert features.shape == (2, width)
    torch.testing.assert_close(logits, frozen.logits(pixels[:2]))


@pytest.mark.parametrize(
    "name",
    ["data_parallel", "compiled", "compiled_in_part", "new_weight_norm", "forward_replaced",
     "pre_hook_on_the_network", "LogProbabilities", "TiedWeights", "dropout"],
)  # fmt: skip
def test_strange_networks_have_features(name: str, pixels: Tensor) -> None:
    made = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = Frozen(VARIANTS[name](made), classes=10, probe=pixels)
        features, logits = frozen.features_and_logits(pixels)
    assert features.shape == (4, 16)
    torch.testing.assert_close(logits, frozen.answers(pixels))


class TwoHeads(nn.Module):
    """The mean of two linear layers; with `skip` the logits of the last one alone."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 10), nn.Linear(64, 10)
        self.skip = skip

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        first, last = self.first(flat), self.last(flat)
        return last if self.skip else (first + last) / 2


def test_logits_of_several_last_layers_have_no_features(pixels: Tensor) -> None:
    with pytest.raises(BadNetwork, match="none of its 2 linear layers with 10 outputs gives its"):
        Frozen(TwoHeads(skip=False), classes=10).features(pixels)
    features = Frozen(TwoHeads(skip=True), classes=10).features(pixels)
    assert torch.equal(features, pixels.flatten(1))


class HiddenTen(nn.Module):
    """Its hidden layer is as wide as its number of classes; `end` is applied to the last layer."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(64, 10), nn.Linear(10, 10)
        self.end = end

    def forward(self, pixels: Tensor) -> Tensor:
        return self.end(self.last(self.hidden(pixels.flatten(1)).relu()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "end", [lambda logits: logits, lambda logits: logits.log_softmax(dim=1)], ids=["same", "log"]
)
def test_a_hidden_layer_as_wide_as_the_classes_is_told_from_the_last(
    end: Callable[[Tensor], Tensor], precision: Precision, pixels: Tensor
) -> None:
    made = HiddenTen(end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        features = Frozen(made, classes=10, precision=precision).features(pixels)
    wanted = made.hidden(pixels.flatten(1)).relu().detach()
    loose = {"rtol": 0.05, "atol": 0.05} if precision == "bfloat16" else {}
    torch.testing.assert_close(features, wanted, **loose)
    with pytest.raises(BadNetwork, match="none of its 2 linear layers"):
        Frozen(HiddenTen(lambda logits: logits.relu()), classes=10).features(pixels)


@pytest.mark.parametrize("width", [3, 10])
def test_a_second_head_that_the_network_does_not_return_is_passed_over(
    width: int, pixels: Tensor
) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
            self.other = nn.Linear(16, width)

        def forward(self, pixels: Tensor) -> Tensor:
            inner = self.body(pixels.flatten(1)).relu()
            logits: Tensor = self.head(inner)
            self.other(inner.square())
            return logits

    made = Auxiliary()
    features, logits = Frozen(made, classes=10).features_and_logits(pixels)
    torch.testing.assert_close(features, made.body(pixels.flatten(1)).relu().detach())
    torch.testing.assert_close(features @ made.head.weight.T + made.head.bias, logits)


def test_an_ensemble_has_no_features(pixels: Tensor) -> None:
    both = EnsembleModule([Small(width=width).build(1, 8, 10) for width in (4, 8)])
    with pytest.raises(BadNetwork, match="network EnsembleModule has no features"):
        Frozen(both, classes=10).features(pixels)


def test_a_network_that_is_called_compiled_has_features_too(pixels: Tensor) -> None:
    made = net()
    frozen = Frozen(made, classes=10, compiled=True)
    torch.testing.assert_close(frozen.features(pixels), expected(made, pixels))


@pytest.mark.parametrize("decomposed", [False, True], ids=["linear", "addmm"])
def test_an_exported_network_has_features(pixels: Tensor, decomposed: bool) -> None:
    made = net()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(made, (pixels,), dynamic_shapes=({0: batch},))
    if decomposed:
        program = program.run_decompositions()
    target = io.BytesIO()
    torch.export.save(program, target)
    weights, steps = exported.read(target.getvalue())
    frozen = Frozen(ExportedNetwork(steps, weights), classes=10)
    torch.testing.assert_close(frozen.features(pixels), expected(made, pixels))


def test_the_gradient_of_a_scalar_of_features_and_logits_is_that_of_the_network(
    pixels: Tensor,
) -> None:
    made = net()
    frozen = Frozen(made, classes=10)
    leaf = pixels.clone().requires_grad_()
    features, logits = frozen.features_and_logits(leaf)
    value = features.square().sum() + logits.logsumexp(dim=1).sum()
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    assert (frozen.forwards, frozen.backwards) == (4, 4)
    other = pixels.double().requires_grad_()
    exact = made.double()
    inner = exact.features(other).mean(dim=(2, 3))
    value = inner.square().sum() + exact.linear(inner).logsumexp(dim=1).sum()
    (wanted,) = torch.autograd.grad(value, other, create_graph=True)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-5)
    second, third = (
        torch.autograd.grad(g.square().sum(), x)[0] for g, x in ((gradient, leaf), (wanted, other))
    )
    torch.testing.assert_close(second.double(), third, rtol=1e-3, atol=1e-4)


def test_bfloat16_has_features_in_float32(pixels: Tensor) -> None:
    made = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        features = Frozen(made, classes=10, precision="bfloat16").features(pixels)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected(made, pixels), rtol=0.05, atol=0.05)


class Convolutional(nn.Module):
    """Its last layer is a convolution, after a linear layer that weights its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(1, 1)
        self.head = nn.Conv2d(1, 10, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        gate = self.gate(pixels.mean(dim=(2, 3))).sigmoid()
        logits: Tensor = self.head(pixels * gate[:, :, None, None]).flatten(1)
        return logits


def test_a_network_whose_last_layer_is_not_linear_is_refused_by_name(pixels: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # no convolution, whose scripting depends on what else was scripted in the process
        scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(BadNetwork, match="network Convolutional has no features: no linear layer"):
        Frozen(Convolutional(), classes=10).features(pixels)
    with pytest.raises(BadNetwork, match=r"network \w*Script\w* has no features"):
        Frozen(scripted, classes=10, probe=pixels).features(pixels)
