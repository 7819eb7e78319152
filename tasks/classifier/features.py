"""The features of a network: the input of the linear layer that gives its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tasks.classifier.precision import run
from tasks.classifier.prepared import uncompiled
from tasks.classifier.problems import BadNetwork
from tasks.specs import Precision

LINEAR: Mapping[Any, tuple[int, str]] = {
    nn.functional.linear: (0, "input"),
    torch.ops.aten.linear.default: (0, "input"),
    torch.addmm: (1, "mat1"),
    torch.ops.aten.addmm.default: (1, "mat1"),
}
"""Functions that a linear layer may call, each with the position and name of its input."""


_ROUNDING = 1e-3
"""How far log-probabilities of float32 may differ by the arithmetic alone."""


class _Linears(TorchFunctionMode):
    """Records input and output of each linear layer whose output has the shape of the logits.

    Attributes:
        found: Pairs of input [N, D] and output, in the order of the calls.
        at_end: Whether the last linear layer that was called is one of them.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []
        self.at_end = False
        self._shape = shape

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func in LINEAR:
            place, name = LINEAR[func]
            taken = args[place] if place < len(args) else named[name]
            self.at_end = tuple(result.shape) == self._shape and taken.ndim == len(self._shape)
            if self.at_end:
                self.found.append((taken, result))
        return result

    def of(self, logits: Tensor) -> Tensor | None:
        """The input of the layer that gives the logits; None if no layer does.

        That is the last one whose output is the logits, or their log-probabilities up to rounding.
        If only one layer has outputs of this shape and none is called after it, then the logits may
        be any function of its output, such as scaled.
        """
        if len(self.found) == 1 and self.at_end:
            return self.found[0][0]
        for taken, given in reversed(self.found):
            if torch.allclose(given.to(torch.float32), logits, rtol=0, atol=0, equal_nan=True):
                return taken
        answers = logits.log_softmax(dim=1)
        for taken, given in reversed(self.found):
            known = given.to(torch.float32).log_softmax(dim=1)
            rounding = 2 * torch.finfo(given.dtype).eps  # the network's may be in bfloat16
            if torch.allclose(known, answers, rtol=rounding, atol=_ROUNDING):
                return taken
        return None


def features_and_logits(
    network: nn.Module,
    pixels: Tensor,
    precision: Precision,
    layout: torch.memory_format,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """Return the input of the linear layer that gives the logits, and the logits.

    Both are differentiable in the pixels.

    Both are of one forward pass. Compiled parts run uncompiled.

    Args:
        network: float32 [N, C, H, W] in [0, 1] to [N, classes].
        pixels: float32 [N, C, H, W] in [0, 1].
        precision: Arithmetic of the network.
        layout: Memory format of the pixels.
        classes: Number of classes.

    Returns:
        float32 [N, D] and float32 [N, classes].

    Raises:
        BadNetwork: If the last linear layer does not return [N, classes], or if several do and the
            logits are the output of none of them, as in an ensemble.
    """
    found = _Linears((len(pixels), classes))

    def watched(given: Tensor) -> Tensor:
        with uncompiled(), found:
            answer: Tensor = network(given)
        return answer

    logits = run(watched, pixels, precision, layout)
    taken = found.of(logits)
    if taken is None:
        why = f"no linear layer is its last, with one output for each of {classes} classes"
        if len(found.found) > 1:
            why = (
                f"none of its {len(found.found)} linear layers with {classes} outputs gives its "
                "logits or log-probabilities"
            )
        raise BadNetwork(f"network {type(network).__name__} has no features: {why}")
    return taken.to(torch.float32), logits
