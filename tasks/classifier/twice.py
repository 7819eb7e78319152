"""Networks whose gradients are themselves differentiated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointError

from tasks.classifier.prepared import uncompiled
from tasks.classifier.problems import BadNetwork
from tasks.classifier.relu import BENT, bumps

_RELU = re.compile(r"(Relu|Threshold|Hardtanh|LeakyRelu|PreluKernel|RreluWithNoise)Backward\d")
_CLAMP = re.compile(r"Clamp(Min)?Backward\d")
_PASSED_OVER = "torch::autograd::Error"
"""Name, in the graph of a gradient, of an operator without a second derivative."""


@contextmanager
def twice(relu_width: float | None) -> Iterator[None]:
    """Context manager in which a network's operators have second derivatives.

    Attention uses its plain formula, since fused kernels have none, and compiled code runs
    uncompiled.

    Args:
        relu_width: See `tasks.classifier.relu.bumps`.
    """
    with uncompiled(), sdpa_kernel(SDPBackend.MATH), bumps(relu_width):
        yield


def examine(
    ask: Callable[[Tensor], Tensor], pixels: Tensor, relu_width: float | None
) -> tuple[str, ...]:
    """Return lines that tell a user about a network's second derivative.

    Args:
        ask: float32 [N, C, H, W] in [0, 1] to logits [N, classes].
        pixels: Images to try.
        relu_width: That of the attack.

    Raises:
        BadNetwork: If there is no second derivative; the message names the operator.
    """
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        with twice(relu_width):
            logits = ask(leaf)
        if not logits.requires_grad:
            return ()
        try:
            value = logits.logsumexp(dim=1).sum()
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                value, leaf, create_graph=True, allow_unused=True
            )
            (gradient,) = found
            if gradient is None:
                return ()
            torch.autograd.grad(gradient.square().sum(), leaf, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise BadNetwork(
                "has no second derivative, so no attack can go back through a gradient of it: "
                f"{_reason(error)}"
            ) from error
    nodes = _nodes(logits)
    relus = () if relu_width is None else _of_relus(nodes)
    return (*_passed_over(nodes, _nodes(gradient)), *relus)


def _passed_over(nodes: list[Node], of_gradient: list[Node]) -> tuple[str, ...]:
    if all(node.name() != _PASSED_OVER for node in of_gradient):
        return ()
    own = {node.name().removesuffix("Backward") for node in nodes if _is_own(node)}
    line = (
        f"a function of its own is once_differentiable ({', '.join(sorted(own))}): attacks that go "
        "back through a gradient of it see only part of its second derivative"
    )
    return (line,)


def _is_own(node: Any) -> bool:
    return isinstance(node, BackwardCFunction) and node.name() != BENT  # type: ignore[attr-defined]


def _of_relus(nodes: list[Node]) -> tuple[str, ...]:
    bent = sum(node.name() == BENT for node in nodes)
    others = [node.name() for node in nodes if _is_relu(node)]
    if others:
        line = (
            f"`relu_width` does not reach {len(others)} of {len(others) + bent} ReLUs "
            f"({', '.join(sorted(set(others)))}), as those in scripted or traced code, in "
            "torch.vmap or in a thread: they have no second derivative"
        )
        return (line,)
    if not bent:
        return ("no ReLU is found in it, so candidates with `relu_width` are as without it",)
    return ()


def _is_relu(node: Node) -> bool:
    name = node.name()
    at_zero = _CLAMP.fullmatch(name) and getattr(node, "_saved_min", None) == 0
    return bool(at_zero or _RELU.fullmatch(name))


def _nodes(result: Tensor) -> list[Node]:
    """Return the nodes of a tensor's autograd graph."""
    waiting = [result.grad_fn]
    found: dict[Node, None] = {}
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [before for before, _ in node.next_functions]
    return list(found)


def _reason(error: RuntimeError) -> str:
    if isinstance(error, CheckpointError):
        return "attention inside torch.utils.checkpoint has none; leave the checkpoint out"
    said = " ".join(str(error).split())
    operator = re.search(r"derivative for '?([\w:]+?)(_backward)?'? is not implemented", said)
    return f"torch has none for {operator[1]}" if operator else said[:200]
