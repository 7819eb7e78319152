"""ReLUs with a second derivative, for an attacker who goes back through a gradient.

The second derivative of a ReLU is zero wherever it exists. So of a defense that takes gradients of
the network, an attack that goes back through these sees no more than the softmax at its end. With
`bumps` the step that is the derivative of a ReLU gets a derivative of its own: a Gaussian of area
1 around zero. Values and first derivatives stay as they are, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TINY = 1e-12
_RELU = frozenset({torch.nn.functional.relu, torch.relu, torch.Tensor.relu})
_IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_})


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.width = width
        return (values > 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        rows = values.float().flatten(1)
        # of each row alone, so that no image's gradient depends on its batch
        widths = (ctx.width * rows.std(dim=1, correction=0, keepdim=True)).clamp_min(_TINY)
        bump = torch.exp(-0.5 * (rows / widths).square()) / (widths * math.sqrt(2 * math.pi))
        return gradients[0] * bump.view_as(values).to(values.dtype), None


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.width = width
        return values.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        step = _Step.apply(values, ctx.width)
        return gradients[0] * step, None


class _Bumps(TorchFunctionMode):
    """The ReLUs that Python code calls; those of an exported program stay as they are."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func not in _RELU and func not in _IN_PLACE:
            return func(*args, **named)
        in_place = func in _IN_PLACE or bool(named.get("inplace", args[1:] and args[1]))
        values: Tensor = args[0] if args else named["input"]
        if values.ndim < 2 or not values.requires_grad:
            return func(*args, **named)
        if not in_place:
            return _Relu.apply(values, self.width)
        return values.copy_(_Relu.apply(values.clone(), self.width))


def bumps(width: float | None) -> AbstractContextManager[object]:
    """What a network is asked in, so that its ReLUs have a second derivative.

    width: of the bump, in standard deviations of what the ReLU is asked about in a row; None for
    ReLUs as they are.
    """
    return nullcontext() if width is None else _Bumps(width)
