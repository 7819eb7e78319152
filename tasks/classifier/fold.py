"""Folding of batch normalisation into the preceding convolution."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norm(module: nn.Module) -> int:
    """Fold, in place, every batch norm whose input is one convolution; return how many.

    The module must be in eval mode, and keeps its own forward: a symbolic trace only finds the
    pairs, the convolution takes on the norm's scale and shift (computed in float64), and the norm
    becomes an identity. A pair is left as it is if it has hooks, or weights that are computed or
    used elsewhere; so is a module that cannot be traced. The caller must check what a trace does
    not see, such as a hook that uses a weight.
    """
    pairs = _pairs(module)
    for convolution, norm in pairs:
        _absorb(convolution, norm)
        for name, child in list(module.named_modules(remove_duplicate=False)):
            if child is norm:
                module.set_submodule(name, nn.Identity().eval())
    return len(pairs)


def _pairs(module: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    try:
        # Trace a copy, since tracing runs the forward, which may count calls or draw numbers.
        graph = fx.Tracer().trace(copy.deepcopy(module))
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    own_weights = Counter(id(weight) for _, weight in _weights(module))
    elsewhere = {id(weight) for name, weight in _weights(module) if name in read}
    called = {node: module.get_submodule(str(node.target)) for node in calls}
    uses = Counter(id(child) for child in called.values())
    pairs = []
    for node, norm in called.items():
        source = node.args[0] if node.args else None
        convolution = called.get(source) if isinstance(source, fx.Node) else None
        if (
            isinstance(source, fx.Node)
            and type(norm) is nn.BatchNorm2d
            and norm.running_mean is not None
            and type(convolution) is nn.Conv2d
            and len(source.users) == 1
            and uses[id(norm)] == uses[id(convolution)] == 1
            and not _hooked(convolution)
            and not _hooked(norm)
            and isinstance(convolution.__dict__["_parameters"].get("weight"), nn.Parameter)
            and not any(
                id(weight) in elsewhere or own_weights[id(weight)] > 1
                for part in (convolution, norm)
                for _, weight in _weights(part)
            )
        ):
            pairs.append((convolution, norm))
    return pairs


def _weights(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers with their names, shared ones under each name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _hooked(module: nn.Module) -> bool:
    """Return whether a module has forward or backward hooks."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name) for name in hooks)


def _absorb(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    dtype = convolution.weight.dtype
    reference = copy.deepcopy(norm).to(torch.float64)
    if reference.running_mean is None or reference.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    bias = convolution.bias
    weight, shift = fuse_conv_bn_weights(
        convolution.weight.to(torch.float64),
        None if bias is None else bias.to(torch.float64),
        reference.running_mean,
        reference.running_var,
        reference.eps,
        reference.weight,
        reference.bias,
    )
    convolution.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.detach().to(dtype), requires_grad=False)
