"""Some fifty networks that people really have, all of them one small trained network with a twist.

Used by `test_as_given`, which reads this file as a user's own: `make(name)` is the factory, and
`make(name, weights)` the same network with the weights of the trained one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm


class Net(nn.Module):
    """float32 [N, 1, 8, 8] to [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 10)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)))

    def head(self, x: Tensor) -> Tensor:
        return self.linear(x.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


VARIANTS: dict[str, Callable[[Net], nn.Module]] = {}


def variant(function: Callable[[Net], nn.Module]) -> Callable[[Net], nn.Module]:
    VARIANTS[function.__name__] = function
    return function


def subclass(cls: type[Net]) -> type[Net]:
    """A variant that is a class derived from `Net`, with weights of the same names."""

    def made(net: Net) -> nn.Module:
        other = cls()
        other.load_state_dict(net.state_dict(), strict=False)
        return other

    VARIANTS[cls.__name__] = made
    return cls


def make(name: str, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    net = Net()
    if weights is not None:
        net.load_state_dict(weights)
    return VARIANTS[name](net)


# ---------------------------------------------------------------------------- hooks


@variant
def plain(net: Net) -> nn.Module:
    return net


@variant
def hook_on_a_convolution(net: Net) -> nn.Module:
    net.conv2.register_forward_hook(lambda module, given, output: output + 0.5)
    return net


@variant
def hook_on_a_norm(net: Net) -> nn.Module:
    net.bn2.register_forward_hook(lambda module, given, output: output.flip(1))
    return net


@variant
def pre_hook_on_a_convolution(net: Net) -> nn.Module:
    net.conv3.register_forward_pre_hook(lambda module, given: (given[0] * 0.2,))
    return net


@variant
def pre_hook_on_the_network(net: Net) -> nn.Module:
    net.register_forward_pre_hook(lambda module, given: (given[0].clamp(min=-0.3),))
    return net


@variant
def hook_on_the_network(net: Net) -> nn.Module:
    net.register_forward_hook(lambda module, given, output: -output)
    return net


@variant
def hook_on_the_way_back(net: Net) -> nn.Module:
    net.bn1.register_full_backward_hook(lambda module, given, out: (-given[0],))
    return net


@variant
def hook_that_knows_the_network(net: Net) -> nn.Module:
    net.conv3.register_forward_hook(lambda module, given, output: output + net.bn1.bias.sum())
    return net


# ---------------------------------------------------------------------------- compiled, wrapped


@variant
def compiled(net: Net) -> nn.Module:
    return torch.compile(net)  # type: ignore[return-value]


@variant
def compiled_in_part(net: Net) -> nn.Module:
    net.conv2 = torch.compile(net.conv2)  # type: ignore[assignment]
    return net


@variant
def compiled_in_place(net: Net) -> nn.Module:
    net.compile()
    return net


@variant
def data_parallel(net: Net) -> nn.Module:
    return nn.DataParallel(net)


@variant
def scripted(net: Net) -> nn.Module:
    return torch.jit.trace(net.eval(), torch.zeros(2, 1, 8, 8))  # type: ignore[no-any-return]


@variant
def forward_replaced(net: Net) -> nn.Module:
    original = net.forward
    net.forward = lambda x: original(0.6 * x)  # type: ignore[method-assign]
    return net


@variant
def forward_partly_filled_in(net: Net) -> nn.Module:
    net.head = functools.partial(Net.head, net)  # type: ignore[method-assign]
    return net


# ---------------------------------------------------------------------------- weights


@variant
def old_weight_norm(net: Net) -> nn.Module:
    for name in ("conv1", "conv2"):
        setattr(net, name, weight_norm(getattr(net, name)))
    net.eval()(torch.zeros(1, 1, 8, 8))
    return net


@variant
def new_weight_norm(net: Net) -> nn.Module:
    net.conv2 = parametrizations.weight_norm(net.conv2)
    return net


@variant
def old_spectral_norm(net: Net) -> nn.Module:
    net.conv2 = spectral_norm(net.conv2)
    return net


@variant
def new_spectral_norm(net: Net) -> nn.Module:
    net.conv2 = parametrizations.spectral_norm(net.conv2)
    return net


@variant
def pruned(net: Net) -> nn.Module:
    prune.l1_unstructured(net.conv2, "weight", amount=0.3)
    net.eval()(torch.zeros(1, 1, 8, 8))
    return net


@variant
def pruned_for_good(net: Net) -> nn.Module:
    prune.l1_unstructured(net.conv2, "weight", amount=0.3)
    prune.remove(net.conv2, "weight")
    return net


@subclass
class TiedWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.again.weight = self.conv3.weight

    def head(self, x: Tensor) -> Tensor:
        return super().head(x + 0.1 * self.again(x))


@subclass
class WeightUsedTwice(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x + 0.1 * F.conv2d(x, self.conv3.weight, padding=1))


@subclass
class WeightReadByItsNorm(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x * self.conv3.weight.abs().mean())


@subclass
class BiasOfANormReadElsewhere(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x + self.bn3.bias.view(1, -1, 1, 1))


@subclass
class StatisticsOfANormReadElsewhere(Net):
    def head(self, x: Tensor) -> Tensor:
        assert self.bn3.running_var is not None
        return super().head(x * self.bn3.running_var.view(1, -1, 1, 1))


@subclass
class WidthOfANormAskedFor(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x / self.bn3.num_features)


@subclass
class ConvolutionUsedTwice(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x + 0.1 * self.conv3(x))


@subclass
class NormUsedTwice(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(self.bn3(x))


# ---------------------------------------------------------------------------- shapes, types


@subclass
class ViewAfterAConvolution(Net):
    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        flat = self.conv3(x).view(x.size(0), -1)
        return F.relu(self.bn3(flat.view(x.size(0), 16, 4, 4)))


@subclass
class MemoryReadAsItLies(Net):
    def features(self, x: Tensor) -> Tensor:
        x = self.conv3(F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))
        return F.relu(self.bn3(torch.as_strided(x, (len(x), 16, 4, 4), (256, 16, 4, 1))))


@subclass
class DataDependent(Net):
    def features(self, x: Tensor) -> Tensor:
        found = super().features(x)
        return found if found.isfinite().all() else torch.zeros_like(found)


@subclass
class Double(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.double().head(self.features(x.double()))


@subclass
class HalfInside(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x))).half()
        x = F.conv2d(x, self.conv2.weight.half(), stride=2, padding=1).float()
        return self.head(F.relu(self.bn3(self.conv3(F.relu(self.bn2(x))))))


@variant
def half(net: Net) -> nn.Module:
    return net.half()


@subclass
class Autocast(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@subclass
class WithoutAGradient(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return super().forward(x)


@subclass
class InPlace(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.clone().clamp_(-0.5, 1.2).sub_(0.1))


# ---------------------------------------------------------------------------- answers


@subclass
class Probabilities(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).softmax(dim=1)


@subclass
class LogProbabilities(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).log_softmax(dim=1)


@subclass
class Tuple(Net):
    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        return self.head(features), features


@subclass
class Mapped(Net):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


@subclass
class Squeezed(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).squeeze()


# ---------------------------------------------------------------------------- norms, chance


def with_norms(net: Net, norm: Callable[[int], nn.Module]) -> nn.Module:
    net.bn2, net.bn3 = norm(16), norm(16)  # type: ignore[assignment]
    return net


@variant
def group_norm(net: Net) -> nn.Module:
    return with_norms(net, lambda width: nn.GroupNorm(4, width))


@variant
def instance_norm(net: Net) -> nn.Module:
    return with_norms(net, nn.InstanceNorm2d)


@variant
def synchronised_norm(net: Net) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


@variant
def norm_without_statistics(net: Net) -> nn.Module:
    return with_norms(net, lambda width: nn.BatchNorm2d(width, track_running_stats=False))


@subclass
class NormInTrainMode(Net):
    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        self.bn3.train()
        return self


@subclass
class BatchCentred(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x - 0.2 * x.mean(dim=0))


@subclass
class FirstImageForAll(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x + x[:1])


@variant
def dropout(net: Net) -> nn.Module:
    net.linear = nn.Sequential(nn.Dropout(0.5), net.linear)  # type: ignore[assignment]
    return net


@subclass
class DropoutThatStaysOn(Net):
    def head(self, x: Tensor) -> Tensor:
        return super().head(F.dropout(x, 0.5))


@subclass
class MonteCarlo(Net):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        self.drop.train()
        return self

    def head(self, x: Tensor) -> Tensor:
        return super().head(self.drop(x))


@subclass
class Noisy(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x + 0.1 * torch.randn_like(x))


@subclass
class Counting(Net):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        type(self).calls += 1
        return super().forward(x) + type(self).calls * torch.eye(10)[3]


@subclass
class Remembering(Net):
    """Its buffer drifts with every image it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, 8, 8), persistent=False)

    def forward(self, x: Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0, keepdim=True)
        return super().forward(x - self.mean)


def with_statistics(module: nn.Module) -> nn.Module:
    """The network in eval mode, its norms with random scales and statistics."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if not isinstance(child, nn.BatchNorm2d):
            continue
        for tensor in (child.weight.data, child.running_var):
            if tensor is not None:
                tensor.uniform_(0.5, 1.5, generator=generator)
        for tensor in (child.bias.data, child.running_mean):
            if tensor is not None:
                tensor.normal_(0.0, 0.3, generator=generator)
    return module.eval()


def trained(pixels: Tensor, labels: Tensor, *, epochs: int = 5) -> dict[str, Tensor]:
    """The weights of `Net` after a short training; float32 [N, 1, 8, 8] and int64 [N]."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(pixels[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return copy.deepcopy(net.state_dict())
