"""A convolution with what follows it, in one pass over the memory where a CPU can do that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def activated(
    convolution: nn.Conv2d, norm: nn.Module, features: Tensor, shortcut: Tensor | None = None
) -> Tensor:
    """relu(norm(convolution(features)) + shortcut), bit for bit.

    On a CPU the sum and the ReLU are taken while the convolution's result is still in its
    registers, once the norm is folded away and the weights are locked. Can be differentiated in
    the features and the shortcut, twice as well.
    """
    if _in_one(convolution, norm, features):
        weight, bias = convolution.weight, convolution.bias
        padding, stride = list(convolution.padding), list(convolution.stride)
        shape = (padding, stride, list(convolution.dilation), convolution.groups)
        return _Activated.apply(features, shortcut, weight, bias, *shape)  # type: ignore[no-any-return]
    features = norm(convolution(features))
    if shortcut is not None:
        features = features + shortcut
    return F.relu(features, inplace=True)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        padding: list[int],
        stride: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        shape = (padding, stride, dilation, groups)
        run = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001  what torch.compile calls
        if shortcut is None:
            result = run(features, weight, bias, *shape, "relu", [], None)
        else:
            convolved = (features, shortcut, weight, bias, *shape)
            result = run.binary(*convolved, "add", 1.0, "relu", [], None)
        ctx.save_for_backward(features, weight, result)
        ctx.shape = shape
        return result  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, weight, result = ctx.saved_tensors
        padding, stride, dilation, groups = ctx.shape
        gradient = torch.ops.aten.threshold_backward(gradients[0], result, 0)
        given = None
        if ctx.needs_input_grad[0]:
            shape = (stride, padding, dilation, False, [0] * len(stride), groups)
            wanted = [True, False, False]
            back = torch.ops.aten.convolution_backward
            given = back(gradient, features, weight, None, *shape, wanted)[0]
        of_shortcut = gradient if ctx.needs_input_grad[1] else None
        return given, of_shortcut, None, None, None, None, None, None


def _in_one(convolution: nn.Conv2d, norm: nn.Module, features: Tensor) -> bool:
    # in this order: while a network is traced, features are no tensor and norms are not folded
    return (
        not torch.compiler.is_compiling()  # which joins them in its own way
        and isinstance(norm, nn.Identity)
        and isinstance(features, Tensor)
        and features.device.type == "cpu"
        and features.dtype == convolution.weight.dtype == torch.float32
        and not convolution.weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(convolution.padding, str)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
