"""Folding of batch normalisation into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norm(module: nn.Module) -> int:
    """Fold, in place, every batch norm that reads one convolution alone; return how many.

    The module is in eval mode. Its own forward still runs: a symbolic trace only finds the
    pairs, the convolution takes the norm's scale and shift (computed in float64) and the
    norm becomes an identity. A module that cannot be traced is left as it is.
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
        # Tracing runs the forward, which may count calls or draw numbers: on a copy, then.
        graph = fx.Tracer().trace(copy.deepcopy(module))
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
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
        ):
            pairs.append((convolution, norm))
    return pairs


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
