"""A network compiled by torch, where this machine can; where it cannot, run as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

UNCOMPILED = "torch.compile cannot be used here, so networks run uncompiled"


class Compiled:
    """Calls a network through `torch.compile`, which takes about a minute at the first call.

    module: in eval mode, its weights locked; float32 [N, C, H, W] to [N, classes]. Results differ
    from the module's own within the rounding of floats. A first derivative can be taken, several
    times from one forward pass; for a second one ask the module itself. Where there is no
    compiler the module is called instead, after one warning.
    """

    def __init__(self, module: nn.Module) -> None:
        # imported only where something is compiled: it takes a second
        from torch._dynamo.exc import TorchDynamoException
        from torch._functorch import config

        # else a second backward pass finds the buffers of the first given away
        config.donated_buffer = False
        self._problems = TorchDynamoException
        self._module = module
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(module)

    @property
    def works(self) -> bool:
        """Whether nothing has spoken against it so far."""
        return self._fast is not None

    def __call__(self, pixels: Tensor) -> Tensor:
        """The network's answer."""
        if self._fast is not None:
            try:
                return self._fast(pixels)
            except self._problems as error:
                self._fast = None
                line = " ".join(str(error).split())[:200]
                warnings.warn(f"{UNCOMPILED}: {line}", RuntimeWarning, stacklevel=2)
        answer: Tensor = self._module(pixels)
        return answer
