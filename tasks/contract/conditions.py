"""The conditions that contracts are made of, and the errors for those that do not hold."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

NOTHING_KEPT = "derive everything from the images and `rows`, and keep nothing between calls"
"""What to do about code that keeps state between calls."""
CHANGES = "changes the network's weights or modules, which have to stay as they are"
"""What is said of code that changes the network, before what it changed."""
_SEED = 471_100_815
"""Seed of `first_call`, which nothing else uses."""


class BrokenContract(AssertionError):
    """The contract is not kept; the message says where."""


class NotRepeatable(BrokenContract):
    """A second run gives another result, or a global random generator is used."""


def require(condition: bool, line: str) -> None:
    """Raise BrokenContract with a line unless a condition holds."""
    if not condition:
        raise BrokenContract(line)


def repeatable(condition: bool, line: str) -> None:
    """Raise NotRepeatable with a line unless a condition holds."""
    if not condition:
        raise NotRepeatable(line)


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two results are equal but for rounding."""
    return torch.allclose(first, second, atol=1e-6)


def checked(
    name: str, result: object, pixels: Tensor, *, copies: int = 1, anywhere: bool = False
) -> Tensor:
    """Return a result that is a batch of images: the right shape, float32, in [0, 1] and finite.

    Args:
        name: The part that returned it, for the message.
        result: What it returned.
        pixels: float32 [N, C, H, W], the images that it was given.
        copies: Number of images that it makes of one.
        anywhere: Whether finite values outside [0, 1] are allowed.

    Raises:
        BrokenContract: If it is anything else.
    """
    if not isinstance(result, Tensor):
        raise BrokenContract(f"{name}: returns {type(result).__name__}, expected a tensor")
    shape, dtype = tuple(result.shape), result.dtype
    views = f" ({copies} views of each image)" if copies > 1 else ""
    expected = (copies * len(pixels), *pixels.shape[1:])
    require(shape == expected, f"{name}: returns shape {shape}, expected shape {expected}{views}")
    require(dtype == torch.float32, f"{name}: gives {dtype}, not torch.float32")
    low, high = result.detach().aminmax()
    require(
        bool(result.isfinite().all()) and (anywhere or (low.item() >= 0 and high.item() <= 1)),
        f"{name}: gives values from {low.item():g} to {high.item():g}, not in [0, 1]",
    )
    return result


def generators() -> dict[str, bytes]:
    """Return the state of each global random generator, by the module it belongs to."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return {
        "torch": b"".join(state.numpy().tobytes() for state in states),
        "numpy": repr(np.random.get_state()).encode(),  # noqa: NPY002  whether it was used
        "random": repr(random.getstate()).encode(),
    }


@contextmanager
def first_call() -> Iterator[None]:
    """Context manager for the first call of code: seed the global generators, and set them back.

    Code that builds a network in its first call, into which it loads weights, draws the weights
    that these replace. What it keeps of its draws is the same in every process.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if started else ()):
        torch.manual_seed(_SEED)
        np.random.seed(_SEED)  # noqa: NPY002
        random.seed(_SEED)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


def check_generators(name: str, before: Mapping[str, bytes]) -> None:
    """Check that no global random generator has been used since `before`.

    Args:
        name: The part that ran meanwhile, for the message.
        before: Those of the states of `generators` to compare.

    Raises:
        NotRepeatable: If one has been used.
    """
    now = generators()
    drawn = [module for module, state in before.items() if now[module] != state]
    repeatable(
        not drawn,
        f"{name}: draws random numbers of {' and '.join(drawn)}, which are no image's own; "
        'draw from `rows`, such as rows.uniform("noise", 64)',
    )
