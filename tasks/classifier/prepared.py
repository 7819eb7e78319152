"""Prepares a network for many calls: copies it, folds batch norms, and uses channels-last.

These three should change only speed. That is tested: logits and input gradients are compared with
those of the original network, and a change that alters them or raises is left out.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tasks.classifier.fold import fold_batch_norm
from tasks.classifier.precision import set_float32
from tasks.classifier.problems import BadNetwork

LOGITS_TOLERANCE = 1e-3
"""Relative to an image's largest logit. Folding ResNet-56 moves none by more than 1e-6 of it."""
GRADIENT_TOLERANCE = 1e-3
"""Relative to the length of an image's gradient, for the median image."""
SINGLE_GRADIENT_TOLERANCE = 0.1
"""For each image: rounding may switch a ReLU now and then, which moves a gradient by up to 1e-3."""
RANDOM_IMAGES = 4
REAL_IMAGES = 4


@dataclass(frozen=True)
class Manner:
    """How a network is prepared."""

    copied: bool = True
    """Whether it is copied, or used itself."""
    folded: bool = True
    """Whether batch norms are folded into convolutions."""
    layout: torch.memory_format = torch.channels_last
    """Memory format of images and weights."""
    left_out: tuple[str, ...] = ()
    """A line with the reason for each of the three that was left out."""


@dataclass(frozen=True)
class Prepared:
    """A network in eval mode with locked weights, and how it was prepared."""

    module: nn.Module
    manner: Manner


@dataclass(frozen=True)
class NetworkAnswer:
    """A network's logits, and the gradient of a random linear combination of them."""

    logits: Tensor
    """[N, classes]."""
    gradient: Tensor | None
    """float32 [N, C, H, W]; None if no gradient reaches the pixels."""


def probe_images(real: Tensor) -> Tensor:
    """Return the images on which networks are compared: the first real ones, then random ones.

    Args:
        real: float32 [N, C, H, W] in [0, 1], where N may be 0.

    Returns:
        The same for at most 8 images.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(RANDOM_IMAGES, *real.shape[1:], generator=generator)
    return torch.cat((real[:REAL_IMAGES].cpu(), random))


def prepare(module: nn.Module, device: torch.device, probe: Tensor | None = None) -> Prepared:
    """Prepare a network on a device, as the same function as the module in eval mode.

    Args:
        module: float32 [N, C, H, W] in [0, 1] to [N, classes]. It is unchanged, unless it cannot be
        copied: then it is itself put in eval mode, locked and moved.
        device: Device of the result.
        probe: Images to compare on, see `probe_images`; without them nothing is compared or caught.

    Raises:
        BadNetwork: If the module does not take the probe.
    """
    if probe is None:
        return Prepared(made(module, device, Manner()), Manner())
    with mode(module, training=False):
        expected = ask(module, probe.to(_place(module)))

    def attempt(manner: Manner) -> Prepared | str:
        try:
            network = made(module, device, manner)
            with mode(module, training=False), _watched(module) as called:
                found = ask(network, probe.to(device), manner.layout)
        except Exception as error:  # noqa: BLE001  a reason, whatever it is, to leave something out
            return f"it raises {_said(error)}"
        if called:
            return "it still runs the network that it was copied from"
        return difference(expected, found) or Prepared(network, manner)

    best = attempt(Manner())
    if isinstance(best, Prepared):
        return best
    plain = attempt(Manner(folded=False, layout=torch.contiguous_format))
    if isinstance(plain, str):
        line = f"is used as it is, neither copied nor folded nor channels-last: copied, {plain}"
        manner = Manner(
            copied=False, folded=False, layout=torch.contiguous_format, left_out=(line,)
        )
        return Prepared(_locked(module).to(device), manner)
    left_out = []
    for change, words in (
        ({"folded": True}, "its batch norms are not folded: folded"),
        ({"layout": torch.channels_last}, "it is not laid out channels-last: so laid out"),
    ):
        found = attempt(replace(plain.manner, **change))
        if isinstance(found, str):
            left_out.append(f"{words}, {found}")
        else:
            plain = found
    return Prepared(plain.module, replace(plain.manner, left_out=tuple(left_out)))


def training_manner(module: nn.Module, probe: Tensor) -> Manner:
    """Return how a network can be trained, and copied for attacks on it during training.

    In eval mode answers must be unchanged, also those after training: what is neutral in an
    untrained network, such as the statistics of batch norms, is made random first. In train mode a
    layout may lead to other random numbers, so it only has to work.

    Args:
        module: See `prepare`, which may change it.
        probe: Images to compare on.

    Raises:
        BadNetwork: If the module does not take the probe, or does not return logits in train mode.
    """
    _as_if_trained(module)
    manner = prepare(module, torch.device("cpu"), probe).manner
    if not manner.copied:
        return manner
    network = copied_network(module).requires_grad_(True)
    with mode(network, training=True):
        try:
            ask(network.to(memory_format=manner.layout), probe, manner.layout)
        except BadNetwork as error:
            if error.__cause__ is None:  # it answered, but not with logits
                raise BadNetwork(f"in train mode {error}") from None
            if manner.layout is torch.contiguous_format:
                return manner
            try:
                ask(network.to(memory_format=torch.contiguous_format), probe)
            except BadNetwork:
                # it cannot be trained in either layout, which training itself says better
                return manner
            line = f"it is not laid out channels-last: so laid out, it raises {_said(error)}"
            left_out = (*manner.left_out, line)
            return replace(manner, layout=torch.contiguous_format, left_out=left_out)
    return manner


def _as_if_trained(module: nn.Module) -> None:
    """Set batch norms, and weights that are zero, to random values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                if child.running_mean is not None and child.running_var is not None:
                    child.running_mean.normal_(0, 0.1, generator=generator)
                    child.running_var.uniform_(0.5, 1.5, generator=generator)
                if child.weight is not None:
                    child.weight.uniform_(0.5, 1.5, generator=generator)
        for weight in module.parameters():
            if weight.is_floating_point() and not weight.any():
                weight.normal_(0, 0.1, generator=generator)


def ask(
    module: Callable[[Tensor], Tensor],
    pixels: Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> NetworkAnswer:
    """Return a network's logits and input gradients, in float32, under a fixed seed of torch.

    Raises:
        BadNetwork: If the network raises, or does not return [N, classes].
    """
    devices = [pixels.device] if pixels.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), uncompiled():
        torch.manual_seed(0)
        # otherwise a GPU's convolutions would round to ten bits
        set_float32("float32")
        leaf = pixels.detach().clone(memory_format=layout).requires_grad_()
        try:
            logits: object = module(leaf)
        except Exception as error:
            raise BadNetwork(f"does not take {_size(pixels)}: {_said(error)}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(pixels):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadNetwork(f"gave {shape} for {_size(pixels)}, not logits [images, classes]")
        if not logits.requires_grad:
            return NetworkAnswer(logits.detach().float(), None)
        mixture = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(1))
        total = (logits.float() @ mixture.to(logits.device)).sum()
        try:
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        except RuntimeError as error:
            raise BadNetwork(f"has no gradient of {_size(pixels)}: {_said(error)}") from error
    return NetworkAnswer(logits.detach().float(), gradient)


def difference(expected: NetworkAnswer, found: NetworkAnswer) -> str:
    """Return how two answers differ beyond rounding, in a few words; "" if they do not."""
    logits, others = (each.logits.cpu() for each in (expected, found))
    if logits.shape != others.shape:
        return f"it gives {tuple(others.shape)} instead of {tuple(logits.shape)}"
    change = relative(logits - others, logits, order=torch.inf)
    if not (change <= LOGITS_TOLERANCE).all():
        return f"it moves logits by up to {_percent(change)}"
    if (expected.gradient is None) != (found.gradient is None):
        return "it lets no gradient through" if found.gradient is None else "it makes a gradient"
    if expected.gradient is None or found.gradient is None:
        return ""
    gradient, other = expected.gradient.cpu(), found.gradient.cpu()
    change = relative(gradient - other, gradient, order=2.0)
    if change.median() > GRADIENT_TOLERANCE or not (change <= SINGLE_GRADIENT_TOLERANCE).all():
        return f"it moves gradients by up to {_percent(change)}"
    return ""


def relative(change: Tensor, of: Tensor, order: float) -> Tensor:
    """Return the norm of each row of a change, relative to the row that it changes; float [N].

    An unchanged row counts as 0, even if it is zero. So does an entry that is not finite in the row
    and changes by NaN, as from infinity to infinity.
    """
    same = ~of.isfinite() & change.isnan()
    change = torch.where(same, torch.zeros_like(change), change).flatten(1).double()
    size = of.nan_to_num(0.0, 0.0, 0.0).flatten(1).double().norm(order, dim=1)
    moved = change.norm(order, dim=1)
    return torch.where(moved == 0, moved, moved / size)


def copied_network(module: nn.Module) -> nn.Module:
    """Return a deep copy, without the wrappers of `torch.compile` around the network or its parts.

    Tensors that a forward pass stored as attributes, as old weight norms and pruning do, are copied
    without their graph, which `copy.deepcopy` refuses.
    """
    memo: dict[int, object] = {}
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    return _unwrapped(copy.deepcopy(module, memo))


def made(module: nn.Module, device: torch.device, manner: Manner) -> nn.Module:
    """Return a locked copy of a network in eval mode on a device, prepared as `manner` says."""
    network = _locked(copied_network(module))
    if manner.folded:
        fold_batch_norm(network)
    network = network.to(device)
    if manner.layout is torch.channels_last:
        network = network.to(memory_format=manner.layout)
    return network


def _locked(module: nn.Module) -> nn.Module:
    """Put a network in eval mode, and make its weights require no gradient."""
    module.eval()
    for weight in module.parameters():
        # not `module.requires_grad_`, which a scripted network refuses
        weight.requires_grad_(False)
    return module


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return a network without the wrappers of `torch.compile`."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is None:
        # nothing was compiled, or its module would be there
        return module
    while isinstance(module, compiler.OptimizedModule):
        module = module._orig_mod  # noqa: SLF001
    for name, child in list(module.named_children()):
        inner = _unwrapped(child)
        if inner is not child:
            setattr(module, name, inner)
    return module


@contextmanager
def uncompiled() -> Iterator[None]:
    """Context manager in which compiled code runs uncompiled."""
    if "torch._dynamo.eval_frame" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _place(module: nn.Module) -> torch.device:
    """Return the device of a network's first weight."""
    weights = (*module.parameters(), *module.buffers())
    return weights[0].device if weights else torch.device("cpu")


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Record the parts of a network that are called in this context, also by references to it."""
    called: list[nn.Module] = []
    hooks = []
    for child in module.modules():
        with suppress(RuntimeError):  # of a part that takes no hooks
            hooks.append(child.register_forward_pre_hook(lambda part, _: called.append(part)))
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Context manager for eval or train mode, which restores the mode of each part."""
    before = [(child, child.training) for child in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for child, mode in before:
            child.training = mode


def _size(pixels: Tensor) -> str:
    count, *shape = pixels.shape
    return f"{count} images of {'x'.join(map(str, shape))}"


def _percent(change: Tensor) -> str:
    largest = change.max().item()
    return f"{100 * largest:.2g} %" if largest <= 10 else f"{largest:.2g} times"


def _said(error: Exception) -> str:
    if isinstance(error, BadNetwork) and error.__cause__ is not None:
        error = error.__cause__  # type: ignore[assignment]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
