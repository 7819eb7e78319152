import hashlib

import pytest
import torch
from our_kinds import our_kinds
from pydantic import ValidationError
from shared_files import RESNET20, RESNET56
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen
from tasks.networks.base import Network
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet50_cifar import ResNet50Cifar
from tasks.networks.resnet50_mi import ResNet50MI
from tasks.networks.resnet56 import ResNet56
from tasks.networks.small import Small
from tasks.registry import kind_class


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weight_count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def million_multiplications(module: nn.Module, channels: int, side: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.rand(1, channels, side, side))
    return counter.get_total_flops() / 2e6


@pytest.fixture(params=[kind for kind in our_kinds("networks") if kind != "resnet50-cifar"])
def network(request) -> Network:
    spec = kind_class("networks", request.param)()
    assert isinstance(spec, Network)
    return spec


def test_every_network_gives_one_logit_a_class_and_a_gradient_to_the_pixels(network):
    module = network.build(3, 16, 7).eval()
    pixels = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits = module(pixels)
    logits[:, 0].sum().backward()
    assert logits.shape == (2, 7)
    assert pixels.grad is not None
    assert pixels.grad.abs().amax(dim=(1, 2, 3)).gt(0).all()


def test_every_network_leaves_the_pixels_alone_and_hides_nothing_that_is_no_number(network):
    frozen = Frozen(network.build(3, 16, 7), classes=7)
    pixels = torch.rand(2, 3, 16, 16)
    before = pixels.clone()
    assert frozen.gradient(pixels, lambda logits: logits[:, 0]).any()
    assert torch.equal(pixels, before)
    pixels[0, 0, 8, 8] = torch.nan
    logits = frozen.logits(pixels)
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


def test_first_weights_depend_on_the_seed_and_on_no_global_generator(network):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = network.build(3, 16, 4, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = network.build(3, 16, 4, seed=5).state_dict()
    other = network.build(3, 16, 4, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name, weight in first.items() if weight.ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in weights)


class Own(Network):
    """A network with weights other than those of convolutions, linear layers and batch norms."""

    kind: str = "own"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        module = nn.Sequential(nn.ConvTranspose2d(channels, classes, 3), nn.LayerNorm(side + 2))
        module.register_parameter("token", nn.Parameter(torch.randn(classes)))
        module.register_buffer("fixed", torch.randn(classes), persistent=False)
        return module


def test_weights_of_other_layers_depend_on_the_seed_and_on_no_global_generator():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = Own().build(3, 16, 4, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (Own().build(3, 16, 4, seed=seed) for seed in (5, 6))
    for name in ("0.weight", "0.bias", "token"):
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert torch.equal(first.fixed, again.fixed)


def test_normalisation_is_inside_the_module_and_not_in_its_weights(network):
    channels = 3
    pixels = torch.rand(2, channels, 16, 16)
    as_is = network.model_copy(update={"mean": (0.0,), "std": (1.0,)})
    shifted = network.model_copy(update={"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)})
    mean = torch.tensor(shifted.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(shifted.std).reshape(1, -1, 1, 1)
    plain, normalising = (spec.build(channels, 16, 4).eval() for spec in (as_is, shifted))
    torch.testing.assert_close(normalising(pixels), plain((pixels - mean) / std))
    assert not any("normalise" in name for name in normalising.state_dict())


def test_numbers_of_weights_are_those_of_the_published_architectures():
    assert weight_count(ResNet50MI().build(3, 32, 10)) == 4_752_586
    assert weight_count(ResNet20().build(3, 32, 10)) == 269_722
    assert weight_count(ResNet56().build(3, 32, 10)) == 853_018


def test_resnet50_mi_costs_seven_tenths_of_a_billion_multiplications():
    cost = million_multiplications(ResNet50MI().build(3, 32, 10).eval(), 3, 32)
    assert 700 < cost < 720


def test_resnet50_mi_has_the_names_of_the_released_checkpoints():
    names = set(ResNet50MI().build(3, 32, 10).state_dict())
    projections = {name for name in names if "downsample" in name and name.endswith("weight")}
    assert projections == {
        f"layer{stage}.0.downsample.{part}.weight" for stage in (2, 3) for part in (0, 1)
    }
    assert {"conv1.weight", "bn1.running_mean", "layer3.4.bn3.bias", "fc_dense.bias"} <= names
    assert {name.split(".")[0] for name in names} == {
        *("conv1", "bn1", "layer1", "layer2", "layer3", "fc_dense")
    }


def test_resnet50_cifar_is_torchvisions_with_a_stem_that_keeps_the_resolution():
    module = ResNet50Cifar().build(3, 32, 10).eval()
    # torchvision's 23,528,522 for 10 classes, less the 7x7 stem, plus the 3x3 one.
    assert weight_count(module) == 23_528_522 - 3 * 64 * 49 + 3 * 64 * 9
    seen = []
    module.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert module(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert seen == [(1, 64, 32, 32)]


@pytest.mark.parametrize("side", [8, 9, 28, 64])
def test_the_small_network_takes_images_of_8_to_64_pixels(side):
    assert Small(width=4).build(1, side, 10).eval()(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_the_small_network_costs_half_a_million_multiplications_on_digits():
    assert million_multiplications(Small().build(1, 8, 10).eval(), 1, 8) == pytest.approx(
        0.5, abs=0.1
    )


def test_option_a_shortcuts_pad_half_of_the_new_channels_on_each_side():
    block = ResNet20().build(3, 8, 10).eval().layer2[0]
    for norm in (block.bn1, block.bn2):
        nn.init.zeros_(norm.weight)
    features = torch.rand(1, 16, 8, 8)
    shortcut = block(features)
    torch.testing.assert_close(shortcut[:, 8:24], features[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_mean_and_std_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="3 entries for images of 1 channels"):
        ResNet20().build(1, 8, 10)
    with pytest.raises(ValidationError, match="mean has 3 entries and std 1"):
        Small(mean=(0.1, 0.2, 0.3))
    with pytest.raises(ValidationError):
        Small(std=(0.0,))


def test_mean_and_std_may_come_as_lists_from_a_config():
    spec = Small.model_validate({"kind": "small", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]})
    assert spec.mean == (0.1, 0.2, 0.3)
    assert Small.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        (ResNet20(), RESNET20),
        (ResNet56(), RESNET56),
    ],
)
def test_public_checkpoints_load_by_their_own_names(spec, file, shared):
    path = shared(file)
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith(path.stem.split("-")[-1])
    module = spec.build(3, 32, 10)
    weights = weights_from_bytes(data, "module.")
    load_weights(module, weights)
    own = module.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())
