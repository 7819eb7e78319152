"""A network compiled by torch, where this machine can; where it cannot, run as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.classifier.consistent import TOLERANCES
from tasks.classifier.prepared import relative

COMPARED = 8
"""Images of the first batch that the network itself is asked as well."""
UNCOMPILED = "torch.compile cannot be used here, so networks run uncompiled"


class Compiled:
    """Calls a network through `torch.compile`, which takes about a minute at the first call.

    module: in eval mode, its weights locked; float32 [N, C, H, W] to [N, classes]. Results differ
    from the module's own within the rounding of floats. A first derivative can be taken, several
    times from one forward pass; for a second one ask the module itself. Where there is no
    compiler, or what it made answers the first few images otherwise than the module, the module
    is called instead, after one warning. randomised: the module draws, so that is not compared.
    """

    def __init__(self, module: nn.Module, *, randomised: bool = False) -> None:
        # imported only where something is compiled: it takes a second
        from torch._dynamo.exc import TorchDynamoException
        from torch._functorch import config

        # else a second backward pass finds the buffers of the first given away
        config.donated_buffer = False
        self._problems = TorchDynamoException
        self._module = module
        self._trusted = randomised
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(module)

    @property
    def works(self) -> bool:
        """Whether nothing has spoken against it so far."""
        return self._fast is not None

    def __call__(self, pixels: Tensor) -> Tensor:
        """The network's answer."""
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
        """Whether the compiled network's first answer is the network's own, but for rounding."""
        with torch.no_grad():
            own = self._module(pixels[:COMPARED])
        narrow = own.dtype is not torch.float32 or torch.backends.cuda.matmul.allow_tf32
        tolerance = TOLERANCES["bfloat16" if narrow else "float32"]
        change = relative(answer.detach()[: len(own)] - own, own, order=torch.inf)
        self._trusted = bool((change <= tolerance).all())
        return self._trusted
