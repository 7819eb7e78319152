import shutil
import warnings

import pytest
import torch
from our_kinds import our_kinds
from shared_files import RESNET20
from torch import nn
from torch.nn import functional as F

from tasks.classifier import precision
from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.networks.resnet20 import ResNet20
from tasks.networks.small import Small
from tasks.registry import kind_class


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def with_random_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                for tensor in (child.weight, child.running_var):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                for tensor in (child.bias, child.running_mean):
                    tensor.normal_(0.0, 0.2, generator=generator)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.fixture
def module() -> nn.Module:
    return with_random_statistics(Small(width=4).build(1, 8, 10))


@pytest.fixture
def frozen(module) -> Frozen:
    return Frozen(module, classes=10)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "kind", [kind for kind in our_kinds("networks") if kind != "resnet50-cifar"]
)
def test_folding_removes_every_batch_norm_and_changes_no_logit(kind):
    module = with_random_statistics(kind_class("networks", kind)().build(3, 16, 10))
    frozen = Frozen(module, classes=10)
    pixels = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        expected = module(pixels)
        error = (frozen.logits(pixels) - expected).abs().max()
    assert norms(module) > 0
    assert norms(frozen.module) == 0
    assert error <= 1e-5 * expected.abs().max().clamp_min(1.0)


def test_folding_keeps_the_logits_of_a_public_checkpoint(shared):
    path = shared(RESNET20)
    module = ResNet20().build(3, 32, 10).eval()
    load_weights(module, weights_from_bytes(path.read_bytes(), "module."))
    pixels = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        difference = Frozen(module, classes=10).logits(pixels) - module(pixels)
    assert difference.abs().max() < 5e-5


class Branching(nn.Module):
    """Whose control flow depends on the pixels, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels):
        features = self.norm(self.conv(pixels)).mean(dim=(2, 3))
        return features if features.sum() > 0 else 2 * features


def test_a_network_that_cannot_be_traced_is_frozen_unfolded(pixels):
    module = with_random_statistics(Branching())
    frozen = Frozen(module, classes=3)
    assert norms(frozen.module) == 1
    assert torch.allclose(frozen.probabilities(pixels), module(pixels).softmax(1))
    frozen.check()


class Shared(nn.Module):
    """One convolution, read by a batch norm and also by what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels):
        features = self.conv(pixels)
        return (self.norm(features) + features).mean(dim=(2, 3))


def test_a_convolution_with_a_second_reader_is_not_folded(pixels):
    module = with_random_statistics(Shared())
    frozen = Frozen(module, classes=3)
    assert norms(frozen.module) == 1
    assert torch.allclose(frozen.logits(pixels), module(pixels))


def test_the_given_module_is_neither_changed_nor_shared(module, pixels):
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    frozen = Frozen(module, classes=10)
    answer = frozen.probabilities(pixels)
    assert module.training
    assert all(weight.requires_grad for weight in module.parameters())
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
    with torch.no_grad():
        module.linear.weight.zero_()
    assert torch.equal(frozen.probabilities(pixels), answer)


def test_probabilities_are_usable_in_later_autograd(frozen, pixels):
    probabilities = frozen.probabilities(pixels)
    scale = torch.ones((), requires_grad=True)
    (probabilities * scale).square().sum().backward()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    assert scale.grad is not None


def test_gradient_is_that_of_each_image_alone(frozen, module, pixels):
    labels = torch.tensor([0, 1, 2, 3, 4])

    def loss(logits):
        return F.cross_entropy(logits, labels, reduction="none")

    values, gradient = frozen.value_and_gradient(pixels, loss)
    for index in range(len(pixels)):
        leaf = pixels[index : index + 1].clone().requires_grad_()
        own = F.cross_entropy(module(leaf), labels[index : index + 1])
        own.backward()
        torch.testing.assert_close(values[index], own.detach())
        torch.testing.assert_close(gradient[index : index + 1], leaf.grad)
    torch.testing.assert_close(frozen.gradient(pixels, loss), gradient)
    assert not gradient.requires_grad


def test_label_gradients_are_the_cross_entropy_gradients_of_each_label(frozen, pixels):
    labels = torch.tensor([[1, 2, 9], [0, 0, 5], [3, 4, 5], [9, 8, 7], [6, 1, 2]])
    together = frozen.label_gradients(pixels, lambda _: labels)
    assert together.shape == (5, 3, 1, 8, 8)
    for column in range(3):
        alone = frozen.gradient(
            pixels,
            lambda logits, own=labels[:, column]: F.cross_entropy(logits, own, reduction="none"),
        )
        torch.testing.assert_close(together[:, column], alone, atol=1e-8, rtol=1e-4)


def test_gradients_come_also_where_autograd_is_off(frozen, pixels):
    labels = torch.zeros(5, 1, dtype=torch.int64)
    with torch.no_grad():
        assert frozen.label_gradients(pixels, lambda _: labels).any()
        assert frozen.gradient(pixels, lambda logits: logits[:, 0]).any()


def test_counters_count_images_forward_and_back_whoever_goes_back(frozen, pixels):
    frozen.probabilities(pixels)
    assert (frozen.forwards, frozen.backwards) == (5, 0)
    frozen.gradient(pixels, lambda logits: logits[:, 0])
    assert (frozen.forwards, frozen.backwards) == (10, 5)
    frozen.label_gradients(pixels, lambda logits: logits.topk(4).indices)
    assert (frozen.forwards, frozen.backwards) == (15, 25)
    leaf = pixels.clone().requires_grad_()
    frozen.logits(leaf).logsumexp(1).sum().backward()
    assert (frozen.forwards, frozen.backwards) == (20, 30)


def test_bfloat16_gives_float32_logits_near_those_of_float32(module, pixels):
    full = Frozen(module, classes=10).logits(pixels)
    narrow = Frozen(module, classes=10, precision="bfloat16")
    leaf = pixels.clone().requires_grad_()
    logits = narrow.logits(leaf)
    logits.sum().backward()
    assert logits.dtype == leaf.grad.dtype == torch.float32
    assert 0 < (logits - full).abs().max() < 0.05 * full.abs().max()


def test_a_processor_that_emulates_bfloat16_is_told_of_once(monkeypatch, module, pixels):
    monkeypatch.setattr(precision, "emulates_bfloat16", lambda device: device == "cpu")
    precision._warn_of_emulation.cache_clear()
    frozen = Frozen(module, classes=10, precision="bfloat16")
    with pytest.warns(RuntimeWarning, match="bfloat16 takes tens of times as long"):
        frozen.logits(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen.logits(pixels)
        Frozen(module, classes=10).logits(pixels)


def test_precision_sets_how_cuda_multiplies_float32(module, pixels):
    Frozen(module, classes=10, precision="tf32").logits(pixels)
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    Frozen(module, classes=10, precision="float32").logits(pixels)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_late_backward_pass_runs_in_the_precision_of_its_own_forward(module, pixels):
    leaf = pixels.clone().requires_grad_()
    logits = Frozen(module, classes=10, precision="float32").logits(leaf)
    Frozen(module, classes=10, precision="tf32").logits(pixels)
    logits.sum().backward()
    assert not torch.backends.cudnn.allow_tf32


def test_check_passes_until_something_changes(frozen, pixels):
    frozen.gradient(pixels, lambda logits: logits[:, 0])
    frozen.check()
    frozen.module.train()
    with pytest.raises(NotFrozen, match="train mode"):
        frozen.check()
    frozen.module.eval()
    frozen.module.linear.bias.requires_grad_()
    with pytest.raises(NotFrozen, match=r"linear\.bias"):
        frozen.check()
    frozen.module.linear.bias.requires_grad_(False)
    frozen.check()
    frozen.module.linear.bias[0] += 1e-3
    with pytest.raises(NotFrozen, match="weights have changed"):
        frozen.check()


@pytest.mark.slow
def test_without_a_compiler_a_network_runs_as_it_is_and_says_so_once(module, pixels):
    from torch._inductor import config

    frozen = Frozen(module, classes=10, compiled=True)
    plain = Frozen(module, classes=10)
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.warns(RuntimeWarning, match="so networks run uncompiled: .*no-such-compiler"),
    ):
        first = frozen.logits(pixels)
    assert not frozen.compiled
    assert torch.equal(first, plain.logits(pixels))
    # a second warning would be an error
    assert torch.equal(frozen.logits(pixels), first)


def test_what_a_compiled_network_raises_itself_is_not_taken_for_a_missing_compiler(pixels):
    class Broken(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("of its own")

    frozen = Frozen(Broken(), classes=10, compiled=True)
    frozen.network._fast = frozen.module
    with pytest.raises(RuntimeError, match="of its own"):
        frozen.logits(pixels)
    assert frozen.compiled


def test_a_compiled_network_that_is_another_function_is_not_used_and_says_so(module, pixels):
    frozen = Frozen(module, classes=10, compiled=True)
    plain = Frozen(module, classes=10)
    frozen.network._fast = lambda pixels: plain.module(pixels).flip(1)
    with pytest.warns(RuntimeWarning, match="what it made of this network gives other logits"):
        first = frozen.logits(pixels)
    assert not frozen.compiled
    assert torch.equal(first, plain.logits(pixels))


def test_a_compiled_network_is_compared_once(module, pixels):
    frozen = Frozen(module, classes=10, compiled=True)
    frozen.network._fast = frozen.module
    assert torch.equal(frozen.logits(pixels), Frozen(module, classes=10).logits(pixels))
    frozen.network._module = None
    frozen.logits(pixels)
    assert frozen.compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_a_compiled_network_gives_the_same_within_rounding(module, pixels):
    plain, fast = (Frozen(module, classes=10, compiled=flag) for flag in (False, True))
    assert torch.allclose(fast.logits(pixels), plain.logits(pixels), atol=1e-5)
    assert torch.allclose(fast.probabilities(pixels), plain.probabilities(pixels), atol=1e-6)
    labels = torch.tensor([[0, 1], [2, 3], [4, 5]])[: len(pixels)]
    for twice in (False, True):
        gradients = [
            frozen.label_gradients(pixels[: len(labels)], lambda _: labels, differentiable=twice)
            for frozen in (plain, fast)
        ]
        assert torch.allclose(*gradients, atol=1e-5)
    steepness = []
    for frozen in (plain, fast):
        leaf = pixels[:1].clone().requires_grad_()
        gradient = frozen.label_gradients(leaf, lambda _: labels[:1], differentiable=True)
        steepness.append(torch.autograd.grad(gradient.square().sum(), leaf)[0])
    assert torch.allclose(*steepness, atol=1e-5)
    assert fast.compiled
