"""The features of a network: the input of its last linear layer."""

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


class _LastLinear(TorchFunctionMode):
    """Records the input and output of the last linear layer, and how many outputs had `shape`.

    shape: that of the logits.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.taken: Tensor | None = None
        self.given: Tensor | None = None
        self.of_shape = 0
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
            self.taken = args[place] if place < len(args) else named[name]
            self.given = result
            self.of_shape += tuple(result.shape) == self._shape
        return result


def features_and_logits(
    network: nn.Module,
    pixels: Tensor,
    precision: Precision,
    layout: torch.memory_format,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """Return the input of the last linear layer and the logits, differentiable in the pixels.

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
            logits are not the output of the last one, as in an ensemble.
    """
    shape = (len(pixels), classes)
    found = _LastLinear(shape)

    def watched(given: Tensor) -> Tensor:
        with uncompiled(), found:
            answer: Tensor = network(given)
        return answer

    logits = run(watched, pixels, precision, layout)
    taken, given = found.taken, found.given
    if taken is None or given is None or given.shape != shape or taken.ndim != 2:
        raise BadNetwork(
            f"network {type(network).__name__} has no features: no linear layer is its last, with "
            f"one output for each of {classes} classes"
        )
    own = torch.allclose(given.to(torch.float32), logits, rtol=0, atol=0, equal_nan=True)
    if found.of_shape > 1 and not own:
        raise BadNetwork(
            f"network {type(network).__name__} has no features: its logits are made of what "
            f"{found.of_shape} linear layers give"
        )
    return taken.to(torch.float32), logits
