"""A network compiled by torch, or run as it is where that does not work."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.classifier.consistent import TOLERANCES
from tasks.classifier.prepared import relative

COMPARED = 8
"""Images of the first batch on which the compiled network is compared with the original."""
UNCOMPILED = "torch.compile cannot be used here, so networks run uncompiled"


class Compiled:
    """Calls a network through `torch.compile`, which takes about a minute at the first call.

    Results differ from the module's own within float rounding. First derivatives can be taken,
    several times from one forward pass; for second ones call the module itself. If there is no
    compiler, or the compiled network answers the first images differently, the module is called
    instead, after one warning.

    Args:
        module: In eval mode, with locked weights; float32 [N, C, H, W] to [N, classes].
        randomised: Whether the module draws random numbers, and so cannot be compared.
    """

    def __init__(self, module: nn.Module, *, randomised: bool = False) -> None:
        # imported only where something is compiled: it takes a second
        from torch._dynamo.exc import TorchDynamoException
        from torch._functorch import config

        # otherwise a second backward pass would find the buffers of the first freed
        config.donated_buffer = False
        self._problems = TorchDynamoException
        self._module = module
        self._trusted = randomised
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(module)

    @property
    def works(self) -> bool:
        """Whether the compiled network is in use."""
        return self._fast is not None

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the network's logits."""
        if self._fast is not None:
            try:
                answer = self._fast(pixels)
                if self._trusted or self._is_right(pixels, answer):
                    return answer
                line = "what it made of this network gives other logits"
            except self._problems as error:
                line = " ".join(str(error).split())[:200]
            self._fast = None
            warnings.warn(f"{UNCOMPILED}: {line}", RuntimeWarning, stacklevel=2)
        own: Tensor = self._module(pixels)
        return own

    def _is_right(self, pixels: Tensor, answer: Tensor) -> bool:
        """Return whether the compiled network's answer equals the network's own up to rounding."""
        with torch.no_grad():
            own = self._module(pixels[:COMPARED])
        narrow = own.dtype is not torch.float32 or torch.backends.cuda.matmul.allow_tf32
        tolerance = TOLERANCES["bfloat16" if narrow else "float32"]
        change = relative(answer.detach()[: len(own)] - own, own, order=torch.inf)
        self._trusted = bool((change <= tolerance).all())
        return self._trusted
