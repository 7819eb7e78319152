"""ReLUs with a second derivative, for an attacker who goes back through a gradient.

The second derivative of a ReLU is zero wherever it exists. So of a defense that takes gradients of
the network, an attack that goes back through these sees no more than the softmax at its end. With
`bumps` the derivative of a ReLU, which is a step, gets a derivative of its own: a Gaussian of area
1 around zero. So does a leaky ReLU, and at each of their ends a ReLU6, a hardtanh, a
hardsigmoid and a clamp from 0 on. Values and first derivatives stay those of torch.
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
    """Where the slope of a function jumps, and by how much.

    crossed: only in rows that have values beyond it. Clamping pixels that lie in [0, 1] to that is
    no ReLU.
    """

    at: float
    jump: float
    crossed: bool = False


_Bends = tuple[_Bend, ...]
_Rule = Callable[..., tuple[_Bends, bool]]
"""Of a function's arguments but the first: its bends, and whether it is asked to be in place."""

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
    """Torch cannot differentiate its derivative at all, whether that has bumps or not."""
    return (_Bend(-3.0, 1 / 6), _Bend(3.0, -1 / 6)), inplace


def _threshold(threshold: float, value: float, inplace: bool = False) -> tuple[_Bends, bool]:
    return (_ZERO if threshold == value == 0 else ()), inplace


def _clamp(min: object = None, max: object = None) -> tuple[_Bends, bool]:  # noqa: A002
    """At 0 alone: elsewhere a clamp is not there to bend, but to divide or take logarithms."""
    if isinstance(min, Tensor) or min != 0:
        return (), False
    upper = (_Bend(max, -1.0, crossed=True),) if isinstance(max, int | float) else ()
    return (_Bend(0.0, 1.0, crossed=True), *upper), False


def _maximum(other: object = None, *_: object, **__: object) -> tuple[_Bends, bool]:
    """Of two tensors; of one, `max` is something else."""
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
    """All functions of torch with a rule, with that and whether they are always in place."""
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
    """The gradient times the slope, which has a derivative in the values."""

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
        # of each row alone, so that no image's gradient depends on its batch
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
    """A function of torch, with its first derivative, which can be differentiated once more.

    A checkpointed part of a network runs once more in the backward pass, without bumps, and what
    torch then saves for its own derivatives takes the place of what was saved at first. So here
    torch saves the same, in the same order, and `values` are kept apart from that.
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
"""The name of a ReLU that has a second derivative, in the graph of what a network gave."""


class _Bumps(TorchFunctionMode):
    """What Python code calls; what is inside a scripted or traced network stays as it is."""

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
    """What a network is asked in, so that its ReLUs have a second derivative.

    width: of the bump, in standard deviations of what the ReLU is asked about in a row; None for a
    second derivative of zero. `tasks.classifier.twice` finds those that it does not reach.
    """
    return _Bumps(width)
