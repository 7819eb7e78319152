"""ReLUs with a second derivative, for attacks that differentiate a gradient of the network.

The second derivative of a ReLU is zero wherever it exists. If a defense takes gradients of the
network, an attack that differentiates these therefore sees only the softmax at its end. Under
`bumps`, the step-shaped derivative of a ReLU has a derivative of its own: a Gaussian of area 1
around zero. The same holds for a leaky ReLU and, at each end, for a ReLU6, a hardtanh, a
hardsigmoid and a clamp from 0. Values and first derivatives are those of torch.

A ReLU is recognised if a network calls one of torch's functions for it. One that is composed of
others, such as `torch.where(x > 0, x, 0)`, `x * (x > 0)` or `(x + x.abs()) / 2`, is not, and keeps
a second derivative of zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_TINY = 1e-12


@dataclass(frozen=True)
class _Bend:
    """A point where the slope of a function jumps.

    at: the point; jump: change of the slope; crossed: only for rows with values beyond the point,
    since a clamp of pixels that are in [0, 1] already is no ReLU.
    """

    at: float
    jump: float
    crossed: bool = False


_Bends = tuple[_Bend, ...]
_Rule = Callable[..., tuple[_Bends, bool]]
"""Maps a function's arguments but the first to its bends, and whether it is to work in place."""

_ZERO: _Bends = (_Bend(0.0, 1.0),)


def _relu(inplace: bool = False) -> tuple[_Bends, bool]:
    return _ZERO, inplace


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> tuple[_Bends, bool]:
    return (_Bend(0.0, 1.0 - negative_slope),), inplace


def _hardtanh(
    min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> tuple[_Bends, bool]:
    return (_Bend(min_val, 1.0), _Bend(max_val, -1.0)), inplace


def _relu6(inplace: bool = False) -> tuple[_Bends, bool]:
    return _hardtanh(0.0, 6.0, inplace)


def _hardsigmoid(inplace: bool = False) -> tuple[_Bends, bool]:
    """Always replaced, since torch cannot differentiate its derivative at all."""
    return (_Bend(-3.0, 1 / 6), _Bend(3.0, -1 / 6)), inplace


def _threshold(threshold: float, value: float, inplace: bool = False) -> tuple[_Bends, bool]:
    return (_ZERO if threshold == value == 0 else ()), inplace


def _clamp(min: object = None, max: object = None) -> tuple[_Bends, bool]:  # noqa: A002
    """Only for a lower end of 0: other clamps guard a division or a logarithm."""
    if isinstance(min, Tensor) or min != 0:
        return (), False
    upper = (_Bend(max, -1.0, crossed=True),) if isinstance(max, int | float) else ()
    return (_Bend(0.0, 1.0, crossed=True), *upper), False


def _maximum(other: object = None, *_: object, **__: object) -> tuple[_Bends, bool]:
    """Only of two tensors; `max` of one is another function."""
    zero = isinstance(other, Tensor) and not other.requires_grad and not other.any()
    return _clamp(0) if zero else ((), False)


_RULES: Mapping[str, _Rule] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "threshold": _threshold,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "maximum": _maximum,
    "max": _maximum,
}


def _spellings() -> Mapping[Any, tuple[_Rule, bool]]:
    """Return all functions of torch with a rule, with that rule and whether they are in place."""
    found: dict[Any, tuple[_Rule, bool]] = {}
    for name, rule in _RULES.items():
        for spelled in (name, f"{name}_"):
            in_place = spelled != name
            for holder in (torch, Tensor, nn.functional, torch._C._nn):  # noqa: SLF001
                if hasattr(holder, spelled):
                    found[getattr(holder, spelled)] = rule, in_place
            operator = getattr(torch.ops.aten, spelled, None)
            if operator is not None:
                overloads = (getattr(operator, overload) for overload in operator.overloads())
                found |= dict.fromkeys((operator, *overloads), (rule, in_place))
    return found


_SPELLINGS = _spellings()


class _Derivative(torch.autograd.Function):
    """The gradient times the slope, with a derivative in the values."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        slope: Tensor,
        values: Tensor,
        bends: _Bends,
        width: float | None,
    ) -> Tensor:
        ctx.save_for_backward(gradient, slope, values)
        ctx.bends, ctx.width = bends, width
        return gradient * slope

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, Tensor | None, None, None]:
        gradient, slope, values = ctx.saved_tensors
        if ctx.width is None:
            return gradients[0] * slope, None, None, None, None
        rows = values.float().flatten(1)
        # per row, so that no image's gradient depends on its batch
        widths = (ctx.width * rows.std(dim=1, correction=0, keepdim=True)).clamp_min(_TINY)
        first, *others = (_bump(rows, widths, bend) for bend in ctx.bends)
        bumps = sum(others, start=first).view_as(values).to(values.dtype)
        return gradients[0] * slope, None, gradients[0] * gradient * bumps, None, None


def _bump(rows: Tensor, widths: Tensor, bend: _Bend) -> Tensor:
    away = rows - bend.at
    bump = torch.exp(-0.5 * (away / widths).square()) / (widths * math.sqrt(2 * math.pi))
    if bend.crossed:
        beyond = away < 0 if bend.jump > 0 else away > 0
        bump = bump * beyond.any(dim=1, keepdim=True)
    return bend.jump * bump


class _Bent(torch.autograd.Function):
    """A function of torch with its first derivative, which can be differentiated once more.

    A checkpointed part of a network runs again in the backward pass, without bumps, and what torch
    then saves replaces what was saved at first. So this saves the same as torch, in the same order,
    and keeps `values` separately.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        plain: Callable[[Tensor], Tensor],
        bends: _Bends,
        width: float | None,
    ) -> Tensor:
        ctx.values, ctx.version = values, values._version  # noqa: SLF001
        ctx.bends, ctx.width = bends, width
        ctx.leaf, ctx.slope = values.detach().requires_grad_(), None
        with torch.enable_grad():
            ctx.answer = plain(ctx.leaf)
        answer: Tensor = ctx.answer.detach()
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        if ctx.values._version != ctx.version:  # noqa: SLF001
            raise RuntimeError("what a ReLU was given is changed in place afterwards")
        if ctx.slope is None:
            ones = torch.ones_like(ctx.answer)
            (ctx.slope,) = torch.autograd.grad(ctx.answer, ctx.leaf, ones)
            ctx.answer = ctx.leaf = None
        found = _Derivative.apply(gradients[0], ctx.slope, ctx.values, ctx.bends, ctx.width)
        return found, None, None, None


BENT = f"{_Bent.__name__}Backward"
"""Name of a ReLU with a second derivative in the autograd graph."""


class _Bumps(TorchFunctionMode):
    """Intercepts calls from Python; scripted and traced code is not reached."""

    def __init__(self, width: float | None) -> None:
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
        if func not in _SPELLINGS or "out" in named or not (args or "input" in named):
            return func(*args, **named)
        values, *rest = args or (named.pop("input"),)
        rule, in_place = _SPELLINGS[func]
        bends: _Bends = ()
        wanted = self.width is not None or rule is _hardsigmoid
        if wanted and values.ndim >= 2 and values.requires_grad:
            bends, asked = rule(*rest, **named)
            in_place = in_place or asked
        if not bends:
            return func(values, *rest, **named)

        def plain(given: Tensor) -> Tensor:
            found: Tensor = func(given.clone() if in_place else given, *rest, **named)
            return found

        if not in_place:
            return _Bent.apply(values, plain, bends, self.width)
        return values.copy_(_Bent.apply(values.clone(), plain, bends, self.width))


def bumps(width: float | None) -> AbstractContextManager[object]:
    """Return a context manager in which a network's ReLUs have a second derivative.

    `tasks.classifier.twice` finds those that it does not reach.

    Args:
        width: Standard deviation of the Gaussian, relative to the standard deviation of the ReLU's
            inputs in a row; None for a second derivative of zero.
    """
    return _Bumps(width)
