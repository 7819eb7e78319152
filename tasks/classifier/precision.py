"""Arithmetic of a network's convolutions and matrix products."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.specs import Precision

EMULATED = "bfloat16 takes tens of times as long as float32 on this processor, which emulates it"


@functools.cache
def emulates_bfloat16(device: str) -> bool:
    """Return whether a type of device (`cpu`, `cuda`) has no bfloat16 arithmetic of its own."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001


def set_float32(precision: Precision) -> None:
    """Set how this process's CUDA kernels multiply float32, in `tf32` or in full precision.

    This is a global switch, and a backward pass may run long after its forward pass, so it must be
    set before each pass.
    """
    allowed = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def run(
    network: Callable[[Tensor], Tensor],
    pixels: Tensor,
    precision: Precision,
    layout: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Return the logits of a network in a precision.

    Args:
        network: float32 [N, C, H, W] in [0, 1] to [N, classes].
        pixels: float32 [N, C, H, W] in [0, 1].
        precision: Arithmetic of convolutions and matrix products.
        layout: Memory format of the pixels.

    Returns:
        float32 [N, classes].
    """
    set_float32(precision)
    pixels = pixels.contiguous(memory_format=layout)
    narrow = precision == "bfloat16"
    if narrow and emulates_bfloat16(pixels.device.type):
        _warn_of_emulation()
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=narrow):
        logits: Tensor = network(pixels)
    return logits.to(torch.float32)


@functools.cache
def _warn_of_emulation() -> None:
    """Warn once per process."""
    warnings.warn(EMULATED, RuntimeWarning, stacklevel=3)
